// Quantized bases: whole models whose weights stay packed, against the same weights unpacked.
#include "models/families.h"

#include "io/tiny_model.h"
#include "temper/models/adapter_params.h"
#include "train/support.h"

using namespace temper;
using namespace temper::test;

namespace {

// The usual format of each mode, and some that fill words unevenly.
std::vector<QuantFormat> formats() {
  std::vector<QuantFormat> all{
      {"affine", 2, 32}, {"affine", 3, 64}, {"affine", 5, 32}, {"affine", 6, 64}, {"affine", 8, 128}};
  for (const auto& mode : quant_modes()) {
    all.push_back(make_quant_format(mode.name));
  }
  return all;
}

Json wide_config(bool experts) {
  Json config{{"hidden_size", 128},
              {"intermediate_size", 128},
              {"num_attention_heads", 4},
              {"num_key_value_heads", 2},
              {"vocab_size", 96}};
  if (experts) {
    config.update({{"model_type", "mixtral"}, {"num_local_experts", 4}, {"num_experts_per_tok", 2}});
  }
  return config;
}

// A model with every matrix packed, and its twin with the same weights unpacked.
std::pair<Model, Model> twins(const QuantFormat& format, bool experts, mx::Dtype dtype = mx::float32) {
  auto packed = tiny_model(wide_config(experts));
  auto dense = packed;
  packed.dtype = dense.dtype = dtype;
  for (auto& [name, array] : packed.params) {
    array = mx::astype(0.5F * array, dtype);
    dense.params.at(name) = array;
  }
  for (const auto& layer : matrix_layers(packed.spec)) {
    auto& weight = packed.params.at(layer.name + ".weight");
    const auto parts = quantize(weight, format, layer.name);
    weight = parts.weight;
    packed.params.emplace(layer.name + ".scales", parts.scales);
    if (parts.biases) {
      packed.params.emplace(layer.name + ".biases", *parts.biases);
    }
    packed.packed.emplace(layer.name, format);
    dense.params.at(layer.name + ".weight") = dequantize(parts, dtype);
  }
  mx::eval(values(packed.params));
  mx::eval(values(dense.params));
  return {packed, dense};
}

mx::array logits(const Model& model, const mx::array& tokens) {
  ForwardContext context{ParamView(model.params), {}, {}};
  return decoder_logits(model.spec, context, decoder_hidden(model.spec, context, {.tokens_BT = tokens}));
}

mx::array tokens_of(int count) {
  const auto ids = family_tokens(count, 3);
  return mx::array(ids.data(), {1, count}, mx::int32);
}

const std::vector<int> kLengths{40, 7, 22, 31};

std::pair<float, Params> lora_gradients(const Model& model, const Params& factors, bool checkpoint) {
  auto options = step_options();
  options.checkpoint = checkpoint;
  TrainStep step(model, options);
  const auto batch = family_batch(kLengths, true);
  auto found =
      step.gradients(step.initial_state(factors, 1), batch, 1.0F / static_cast<float>(batch.num_supervised));
  mx::eval(values(found.gradients));
  return {found.loss.item<float>(), found.gradients};
}

} // namespace

TEST_CASE("packed models compute what their unpacked twins do, many tokens and one") {
  for (const auto& format : formats()) {
    for (const bool experts : {false, true}) {
      CAPTURE(describe(format));
      CAPTURE(experts);
      const auto [packed, dense] = twins(format, experts);
      for (const int count : {1, 50}) {
        CHECK(relative_difference(logits(packed, tokens_of(count)), logits(dense, tokens_of(count))) < 1e-4F);
      }
    }
  }
}

TEST_CASE("the fewer the bits, the farther from the dense model, and never far") {
  const auto tokens = tokens_of(50);
  auto dense = tiny_model(wide_config(false));
  for (auto& [name, array] : dense.params) {
    array = 0.5F * array;
  }
  const auto expected = logits(dense, tokens);
  const auto size = mx::sqrt(mx::mean(mx::square(expected))).item<float>();
  std::vector<float> errors;
  for (const int bits : {8, 6, 5, 4, 3}) {
    const auto packed = twins({"affine", bits, 32}, false).first;
    const auto difference = logits(packed, tokens) - expected;
    errors.push_back(mx::sqrt(mx::mean(mx::square(difference))).item<float>() / size);
    CAPTURE(errors.back());
    CHECK((errors.size() == 1 || errors.back() > 1.5F * errors[errors.size() - 2]));
    // A group of 32 normal weights spans 4 standard deviations or so; layers add their errors up.
    CHECK(errors.back() < 4.0F * 4.0F / static_cast<float>((1 << bits) - 1));
  }
}

TEST_CASE("LoRA over packed weights has the gradients that it has over unpacked ones") {
  for (const auto& format : formats()) {
    for (const bool experts : {false, true}) {
      const auto [packed, dense] = twins(format, experts);
      const auto factors = lora_factors(packed);
      const auto expected = lora_gradients(dense, factors, false);
      for (const bool checkpoint : {false, true}) {
        CAPTURE(describe(format));
        CAPTURE(experts);
        CAPTURE(checkpoint);
        const auto found = lora_gradients(packed, factors, checkpoint);
        CHECK(found.first == doctest::Approx(expected.first).epsilon(1e-5));
        for (const auto& [tensor, gradient] : expected.second) {
          CAPTURE(tensor);
          CHECK(relative_difference(found.second.at(tensor), gradient) < 2e-4F);
        }
      }
    }
  }
}

TEST_CASE("twenty steps of QLoRA lower the loss over every mode") {
  const auto batch = family_batch(kLengths, true);
  for (const auto& format : formats()) {
    CAPTURE(describe(format));
    const auto model = twins(format, false).first;
    const auto losses = lora_losses(model, batch, 20);
    CHECK(losses.back() < 0.85F * losses.front());
  }
}

TEST_CASE("gpt-oss' packed experts, kept so, agree with transformers' dequantized ones") {
  const auto model = load_model(kFamilyFixtures / "gpt_oss_mxfp4", "float32", PackedWeights::keep);
  CHECK(model.packed.size() == 6);
  CHECK(model.packed.begin()->second == QuantFormat{"mxfp4", 4, 32});
  const auto expected = family_expected("gpt_oss_mxfp4");
  CHECK(max_difference(logits(model, expected.at("input_ids")), expected.at("logits")) < 1e-4F);
}
