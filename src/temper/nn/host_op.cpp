#include "temper/nn/host_op.h"

#include <atomic>
#include <memory>
#include <stdexcept>

#include <mlx/backend/cpu/encoder.h>
#include <mlx/primitives.h>

namespace temper {
namespace {

std::atomic<bool> enabled{true};

class HostOp final : public mx::Primitive {
 public:
  HostOp(mx::Stream stream, const char* name, HostKernel kernel)
      : mx::Primitive(stream), name_(name), kernel_(std::move(kernel)) {
  }

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    std::vector<mx::array> sources;
    for (const auto& input : inputs) {
      encoder.set_input_array(input);
      sources.push_back(mx::array::unsafe_weak_copy(input));
    }
    std::vector<float*> targets;
    for (auto& output : outputs) {
      output.set_data(mx::allocator::malloc(output.nbytes()));
      encoder.set_output_array(output);
      targets.push_back(output.data<float>());
    }
    encoder.dispatch([kernel = kernel_, sources = std::move(sources), targets = std::move(targets)] {
      std::vector<const mx::array*> views;
      for (const auto& source : sources) {
        views.push_back(&source);
      }
      kernel(views, targets);
    });
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error("a host kernel was asked to run on a GPU");
  }

  const char* name() const override {
    return name_;
  }

 private:
  const char* name_;
  HostKernel kernel_;
};

} // namespace

std::vector<mx::array> host_op(const char* name, const std::vector<mx::array>& inputs,
                               const std::vector<mx::Shape>& output_shapes, HostKernel kernel) {
  const auto stream = mx::default_stream(mx::Device::cpu);
  std::vector<mx::array> contiguous;
  contiguous.reserve(inputs.size());
  for (const auto& input : inputs) {
    contiguous.push_back(mx::contiguous(input, false, stream));
  }
  const std::vector<mx::Dtype> dtypes(output_shapes.size(), mx::float32);
  return mx::array::make_arrays(output_shapes, dtypes,
                                std::make_shared<HostOp>(stream, name, std::move(kernel)), contiguous);
}

bool use_host_kernels(const mx::array& x) {
  return enabled.load(std::memory_order_relaxed) && x.dtype() == mx::float32 &&
         mx::default_device() == mx::Device::cpu;
}

void set_host_kernels(bool on) {
  enabled.store(on, std::memory_order_relaxed);
}

} // namespace temper
