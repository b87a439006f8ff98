// The blocks as training runs them (grouped adapters, a backward pass written by hand, cheap parts recomputed,
// the GPU's kernels) beside their plain twins, whose gradients are MLX's own.
#include <cmath>

#include "temper/nn/gpu_kernels.h"
#include "temper/train/step.h"
#include "train/support.h"

using namespace temper;
using namespace temper::test;

namespace {

struct Kernels {
  explicit Kernels(bool enabled) {
    gpu::set_kernels(enabled);
  }
  ~Kernels() {
    gpu::set_kernels(true);
  }
};

struct Found {
  float loss;
  Params gradients;
};

Found one_step(const Model& model, const Params& trainable, const HostBatch& batch, bool plain,
               bool checkpoint = false) {
  const Kernels kernels(!plain);
  auto options = step_options();
  options.plain = plain;
  options.checkpoint = checkpoint;
  TrainStep step(model, options);
  const auto state = step.initial_state(trainable, 1);
  auto part = step.gradients(state, batch, 1.0F / static_cast<float>(batch.num_supervised));
  mx::eval(values(part.gradients));
  return {part.loss.item<float>(), part.gradients};
}

std::vector<float> losses(const Model& model, int steps, bool plain) {
  const Kernels kernels(!plain);
  auto options = step_options();
  options.plain = plain;
  TrainStep step(model, options);
  auto state = step.initial_state(lora_factors(model), 1);
  std::vector<float> found;
  for (int i = 0; i < steps; ++i) {
    const auto batch = batch_of(uneven_examples(7), true);
    auto part = step.gradients(state, batch, 1.0F / static_cast<float>(batch.num_supervised));
    step.update(state, part.gradients, 1e-3);
    mx::eval(values(state.trainable));
    ++state.micro_step;
    found.push_back(part.loss.item<float>());
  }
  return found;
}

void check_gradients(mx::Dtype dtype, float tolerance) {
  const auto model = cast_model(tiny_model(), dtype);
  const auto trainable = lora_factors(model);
  for (const bool packed : {true, false}) {
    const auto batch = batch_of(uneven_examples(7), packed);
    const auto plain = one_step(model, trainable, batch, true);
    for (const bool checkpoint : {false, true}) {
      CAPTURE(checkpoint);
      const auto lean = one_step(model, trainable, batch, false, checkpoint);
      CHECK(lean.loss == doctest::Approx(plain.loss).epsilon(tolerance));
      for (const auto& [name, gradient] : plain.gradients) {
        CAPTURE(name);
        CHECK(relative_difference(lean.gradients.at(name), gradient) < tolerance);
      }
    }
  }
}

} // namespace

TEST_CASE("lean blocks have their plain twins' gradients, fp32") {
  check_gradients(mx::float32, 1e-4F);
}

TEST_CASE("lean blocks train as their plain twins do, fp32, 50 steps") {
  const auto model = tiny_model();
  const auto lean = losses(model, 50, false);
  const auto plain = losses(model, 50, true);
  for (std::size_t i = 0; i < lean.size(); ++i) {
    CHECK(lean[i] == doctest::Approx(plain[i]).epsilon(1e-4));
  }
}

namespace {

// |a - b| / |b| over all elements.
float distance(const mx::array& a, const mx::array& b) {
  auto ratio = mx::sqrt(mx::sum(mx::square(a - b)) / mx::sum(mx::square(b)));
  return ratio.item<float>();
}

// Sizes that every GPU kernel takes.
Model wide_model(const char* type) {
  auto model = tiny_model({{"model_type", type},
                           {"vocab_size", 304},
                           {"hidden_size", 128},
                           {"intermediate_size", 256},
                           {"head_dim", 64},
                           {"num_attention_heads", 4}});
  for (auto& [name, array] : model.params) {
    array = array.ndim() > 1 ? 0.2F * array : array;
  }
  return model;
}

} // namespace

// Against fp32 both paths are off by bf16's rounding (2^-9 an operation, some dozens deep), the lean one by no
// more than the plain one and a hundredth.
TEST_CASE("lean gradients in bf16 are as near to fp32's as their plain twins'") {
  for (const char* type : {"llama", "qwen3"}) {
    const auto half = cast_model(wide_model(type), mx::bfloat16);
    const auto trainable = lora_factors(half);
    const auto batch = batch_of(uneven_examples(7), true);
    const auto exact = one_step(cast_model(half, mx::float32), trainable, batch, true);
    const auto plain = one_step(half, trainable, batch, true);
    const auto lean = one_step(half, trainable, batch, false);
    for (const auto& [name, gradient] : exact.gradients) {
      CAPTURE(type);
      CAPTURE(name);
      CHECK(distance(lean.gradients.at(name), gradient) < distance(plain.gradients.at(name), gradient) + 0.01F);
    }
  }
}

// A loss in bf16 comes from logits of 8 significant bits. The two orders of rounding differ by at most some of
// their last places, 2^-9 each, and a mean over hundreds of tokens by less: within 1%.
TEST_CASE("lean blocks train as their plain twins do, bf16, 50 steps") {
  const auto model = cast_model(tiny_model(), mx::bfloat16);
  const auto lean = losses(model, 50, false);
  const auto plain = losses(model, 50, true);
  for (std::size_t i = 0; i < lean.size(); ++i) {
    CAPTURE(i);
    CHECK(lean[i] == doctest::Approx(plain[i]).epsilon(0.01));
  }
}
