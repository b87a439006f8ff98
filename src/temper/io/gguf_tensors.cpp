#include "temper/io/gguf_tensors.h"

#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <stdexcept>

#include <mlx/backend/cpu/encoder.h>
#include <mlx/primitives.h>

#include "temper/base/error.h"
#include "temper/base/files.h"
#include "temper/quant/ggml.h"

namespace temper {
namespace {

// Brings a tensor's bytes to memory, as they lie in the file or unpacked to float32. On the CPU's stream
// whatever the device: MLX's own loading does the same.
class ReadTensor final : public mx::Primitive {
 public:
  ReadTensor(std::shared_ptr<const MappedFile> file, const GgufTensor& tensor, const GgmlFormat* unpacked)
      : mx::Primitive(mx::default_stream(mx::Device::cpu)),
        file_(std::move(file)),
        tensor_(tensor),
        unpacked_(unpacked) {
  }

  void eval_cpu(const std::vector<mx::array>&, std::vector<mx::array>& outputs) override {
    auto& out = outputs.front();
    out.set_data(mx::allocator::malloc(out.nbytes()));
    auto& encoder = mx::cpu::get_command_encoder(stream());
    encoder.set_output_array(out);
    encoder.dispatch(
        [file = file_, tensor = tensor_, unpacked = unpacked_, data = out.data<char>(), size = out.size()] {
          const auto bytes = file->bytes().subspan(tensor.begin, tensor.bytes);
          if (unpacked == nullptr) {
            std::memcpy(data, bytes.data(), bytes.size());
          } else {
            ggml_dequantize(*unpacked, bytes, {reinterpret_cast<float*>(data), size}, tensor.name);
          }
        });
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error("a file was asked to be read on a GPU");
  }

  const char* name() const override {
    return "TemperReadTensor";
  }

 private:
  std::shared_ptr<const MappedFile> file_;
  GgufTensor tensor_;
  const GgmlFormat* unpacked_;
};

mx::Shape shape_of(const GgufTensor& tensor) {
  mx::Shape shape;
  for (auto dim = tensor.dims.rbegin(); dim != tensor.dims.rend(); ++dim) {
    if (*dim > std::numeric_limits<mx::ShapeElem>::max()) {
      throw ModelError("tensor " + tensor.name + " has an axis of " + std::to_string(*dim));
    }
    shape.push_back(static_cast<mx::ShapeElem>(*dim));
  }
  return shape;
}

mx::array lazy(const std::shared_ptr<const MappedFile>& file, const GgufTensor& tensor, mx::Shape shape,
               mx::Dtype dtype, const GgmlFormat* unpacked = nullptr) {
  return {std::move(shape), dtype, std::make_shared<ReadTensor>(file, tensor, unpacked), {}};
}

mx::array last_axis(const mx::array& array, int begin, int end, int step = 1) {
  auto starts = mx::Shape(array.ndim(), 0);
  auto stops = array.shape();
  auto steps = mx::Shape(array.ndim(), 1);
  starts.back() = begin;
  stops.back() = end;
  steps.back() = step;
  return mx::slice(array, starts, stops, steps);
}

// ggml keeps a block's first half in the low nibbles; MLX's order is that of the weights.
mx::array in_order(const mx::array& nibbles) {
  const auto all = mx::concatenate(
      {mx::bitwise_and(nibbles, mx::array(15, mx::uint8)), mx::right_shift(nibbles, mx::array(4, mx::uint8))},
      -1);
  const int count = all.shape(-1);
  return mx::bitwise_or(last_axis(all, 0, count, 2),
                        mx::left_shift(last_axis(all, 1, count, 2), mx::array(4, mx::uint8)));
}

// The words of all blocks of a row, one after another.
mx::array words(const mx::array& bytes) {
  return mx::view(mx::flatten(mx::contiguous(bytes), -2, -1), mx::uint32);
}

// [..., 1] of two bytes each -> [...].
mx::array halves(const mx::array& bytes) {
  return mx::squeeze(mx::view(mx::contiguous(bytes), mx::float16), -1);
}

// `blocks` is uint8 [..., blocks a row, bytes a block]: a scale, in Q4_1 a minimum, then the weights.
void add_packed(Params& params, const std::string& layer, GgufType type, const mx::array& blocks) {
  const int bytes = blocks.shape(-1);
  const auto scales = halves(last_axis(blocks, 0, 2));
  const auto offset = [&](float zero) { return mx::multiply(scales, mx::array(-zero, mx::float16)); };
  const auto put = [&](const mx::array& weight, const mx::array& biases) {
    params.insert_or_assign(layer + ".weight", words(weight));
    params.insert_or_assign(layer + ".scales", scales);
    params.insert_or_assign(layer + ".biases", biases);
  };
  if (type == GgufType::q4_0) {
    put(in_order(last_axis(blocks, 2, bytes)), offset(8.0F));
  } else if (type == GgufType::q4_1) {
    put(in_order(last_axis(blocks, 4, bytes)), halves(last_axis(blocks, 2, 4)));
  } else { // int8: with the sign bit turned over they count from -128
    put(mx::bitwise_xor(last_axis(blocks, 2, bytes), mx::array(128, mx::uint8)), offset(128.0F));
  }
}

bool stays_packed(const GgufTensor& tensor) {
  const bool is_affine =
      tensor.type == GgufType::q4_0 || tensor.type == GgufType::q4_1 || tensor.type == GgufType::q8_0;
  return is_affine && tensor.dims.size() > 1 && tensor.name.ends_with(".weight");
}

using File = std::shared_ptr<const MappedFile>;

void add_tensor(Params& params, const GgufHeader& header, const File& file, const GgufTensor& tensor) {
  const auto* format = find_ggml_format(static_cast<std::uint32_t>(tensor.type));
  if (format == nullptr) {
    throw ModelError(header.path.string() + ": tensor " + tensor.name + " holds " +
                     traits_of(tensor.type).name + ", which are no weights that Temper reads");
  }
  if (tensor.begin + tensor.bytes > file->bytes().size()) {
    throw IoError(header.path.string() + ": it was cut short while it was read");
  }
  auto shape = shape_of(tensor);
  if (stays_packed(tensor)) {
    shape.back() /= static_cast<int>(format->block_weights);
    shape.push_back(static_cast<int>(format->block_bytes));
    const auto layer = tensor.name.substr(0, tensor.name.size() - std::string(".weight").size());
    add_packed(params, layer, tensor.type, lazy(file, tensor, shape, mx::uint8));
    return;
  }
  static const std::map<GgufType, mx::Dtype> kPlain{
      {GgufType::f32, mx::float32}, {GgufType::f16, mx::float16}, {GgufType::bf16, mx::bfloat16}};
  const auto plain = kPlain.find(tensor.type);
  params.insert_or_assign(tensor.name, plain != kPlain.end() ? lazy(file, tensor, shape, plain->second)
                                                             : lazy(file, tensor, shape, mx::float32, format));
}

} // namespace

Params load_gguf_tensors(const GgufHeader& header) {
  const auto file = std::make_shared<const MappedFile>(header.path);
  Params params;
  for (const auto& tensor : header.tensors) {
    add_tensor(params, header, file, tensor);
  }
  return params;
}

Params load_gguf_tensors(const GgufHeader& header, const std::vector<std::string>& names) {
  const auto file = std::make_shared<const MappedFile>(header.path);
  Params params;
  for (const auto& name : names) {
    const auto* tensor = header.find_tensor(name);
    if (tensor == nullptr) {
      throw ModelError(header.path.string() + ": tensor " + name + " is missing");
    }
    add_tensor(params, header, file, *tensor);
  }
  return params;
}

} // namespace temper
