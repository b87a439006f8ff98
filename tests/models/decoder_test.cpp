// The decoder's parts that golden_test.cpp does not reach: LoRA against PEFT, dropout, checkpointing, and what
// can be adapted.
#include "temper/models/decoder.h"

#include <filesystem>

#include "nn/support.h"
#include "temper/base/error.h"
#include "temper/io/model_folder.h"
#include "temper/io/safetensors.h"
#include "temper/nn/loss.h"

using namespace temper;
using namespace temper::test;

namespace {

const std::filesystem::path kFixtures = std::filesystem::path(TEMPER_TEST_DATA) / "llama";

// PEFT's "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight" as ours, transposed: its A is [R, I].
Params from_peft(const Params& peft, const std::string& prefix) {
  Params ours;
  for (const auto& [name, array] : peft) {
    if (name.starts_with(prefix) && contains(name, ".lora_")) {
      auto layer = name.substr(prefix.size(), name.find(".lora_") - prefix.size());
      layer += contains(name, ".lora_A") ? ".lora_a" : ".lora_b";
      ours.emplace(layer, mx::transpose(array));
    }
  }
  return ours;
}

// Mean next-token loss of all positions but each row's last.
LossTargets next_tokens(const mx::array& tokens) {
  const int rows = tokens.shape(0);
  const int width = tokens.shape(1);
  const int count = rows * (width - 1);
  const auto places = mx::reshape(mx::arange(0, rows * width, 1, mx::int32), {rows, width});
  return {mx::flatten(mx::slice(places, {0, 0}, {rows, width - 1})),
          mx::flatten(mx::slice(tokens, {0, 1}, {rows, width})),
          mx::full({count}, 1.0F / static_cast<float>(count), mx::float32)};
}

struct Setting {
  LoraConfig lora;
  bool checkpoint = false;
  std::optional<mx::array> dropout_key{};
};

// Loss, with the gradient of every one of `trainable`.
std::pair<float, Params> loss_and_gradients(const Model& model, const Params& trainable,
                                            const mx::array& tokens, const Setting& setting) {
  const auto loss_of = [&](const Arrays& in) {
    const auto own = with_values(trainable, in);
    ForwardContext context{ParamView(model.params, &own), setting.lora, setting.dropout_key};
    const auto hidden =
        decoder_hidden(model.spec, context, {.tokens_BT = tokens, .checkpoint = setting.checkpoint});
    return chunked_cross_entropy(mx::flatten(hidden, 0, 1), decoder_head(model.spec, context),
                                 next_tokens(tokens), 16);
  };
  std::vector<int> all(trainable.size());
  std::iota(all.begin(), all.end(), 0);
  auto [loss, gradients] = mx::value_and_grad(Function(loss_of), all)(values(trainable));
  mx::eval(gradients);
  return {loss.item<float>(), with_values(trainable, gradients)};
}

Model llama32() {
  return load_model(kFixtures / "llama32", "float32");
}

struct Peft {
  Model model = llama32();
  Params expected = load_safetensors(kFixtures / "llama32" / "peft" / "expected.safetensors");
  Params factors = from_peft(load_safetensors(kFixtures / "llama32" / "peft" / "adapter_model.safetensors"),
                             "base_model.model.");
  LoraConfig lora{.rank = 4, .scale = 2.0F}; // lora_alpha 8 / r 4
  mx::array tokens = expected.at("input_ids");
};

} // namespace

TEST_CASE("LoRA on every linear computes what PEFT computes") {
  const Peft peft;
  REQUIRE(peft.factors.size() == 3 * 7 * 2);
  ForwardContext context{ParamView(peft.model.params, &peft.factors), peft.lora, {}};
  const auto hidden = decoder_hidden(peft.model.spec, context, {.tokens_BT = peft.tokens});
  const auto logits = decoder_logits(peft.model.spec, context, hidden);
  CHECK(max_difference(logits, peft.expected.at("logits")) < 2e-4F);
}

TEST_CASE("LoRA's loss and gradients are PEFT's, checkpointing on and off") {
  const Peft peft;
  auto wanted = from_peft(peft.expected, "grad.base_model.model.");
  auto expected_loss = peft.expected.at("loss");
  REQUIRE(wanted.size() == peft.factors.size());
  for (const bool checkpoint : {false, true}) {
    CAPTURE(checkpoint);
    const auto [loss, gradients] =
        loss_and_gradients(peft.model, peft.factors, peft.tokens, {peft.lora, checkpoint});
    CHECK(loss == doctest::Approx(expected_loss.item<float>()).epsilon(1e-5));
    for (const auto& [name, gradient] : gradients) {
      CAPTURE(name);
      CHECK(relative_difference(gradient, wanted.at(name)) < 2e-4F);
    }
  }
}

TEST_CASE("checkpointing draws the same dropout again: loss and gradients stay") {
  Peft peft;
  peft.lora.dropout = 0.3F;
  const auto key = named_key(3, "step 0");
  const auto kept = loss_and_gradients(peft.model, peft.factors, peft.tokens, {peft.lora, false, key});
  const auto recomputed = loss_and_gradients(peft.model, peft.factors, peft.tokens, {peft.lora, true, key});
  const auto calm = loss_and_gradients(peft.model, peft.factors, peft.tokens, {peft.lora, false});
  CHECK(kept.first == doctest::Approx(recomputed.first).epsilon(1e-6));
  CHECK(std::abs(kept.first - calm.first) > 1e-3F);
  for (const auto& [name, gradient] : kept.second) {
    CAPTURE(name);
    CHECK(relative_difference(recomputed.second.at(name), gradient) < 1e-4F);
  }
}

TEST_CASE("gradients with dropout agree with finite differences") {
  Peft peft;
  peft.lora.dropout = 0.3F;
  const Setting setting{peft.lora, false, named_key(3, "step 0")};
  const auto gradients = loss_and_gradients(peft.model, peft.factors, peft.tokens, setting).second;
  for (const std::string name :
       {"model.layers.0.self_attn.q_proj.lora_a", "model.layers.2.mlp.down_proj.lora_b"}) {
    CAPTURE(name);
    const auto& gradient = gradients.at(name);
    const auto direction = gradient / mx::sqrt(mx::sum(mx::square(gradient)));
    const auto at = [&](float h) {
      auto moved = peft.factors;
      moved.at(name) = moved.at(name) + mx::array(h) * direction;
      return loss_and_gradients(peft.model, moved, peft.tokens, setting).first;
    };
    const float slope = (at(1e-2F) - at(-1e-2F)) / 2e-2F;
    CHECK(slope == doctest::Approx(mx::sum(gradient * direction).item<float>()).epsilon(0.02));
  }
}

TEST_CASE("what can be adapted: the last blocks' linears, chosen by key, with shapes") {
  const auto spec = llama32().spec;
  const auto all = adaptable_layers(spec, -1, {});
  CHECK(all.size() == 3 * 7);
  CHECK(all.front().name == "model.layers.0.self_attn.q_proj");
  CHECK(all.front().weight_shape() == mx::Shape{64, 48});
  CHECK(all.back().name == "model.layers.2.mlp.down_proj");
  CHECK(all.back().weight_shape() == mx::Shape{48, 64});

  const auto last = adaptable_layers(spec, 1, {"mlp.up_proj", "self_attn.k_proj"});
  REQUIRE(last.size() == 2);
  CHECK(last[0].name == "model.layers.2.self_attn.k_proj");
  CHECK(last[0].weight_shape() == mx::Shape{32, 48});
  CHECK(last[1].name == "model.layers.2.mlp.up_proj");
  CHECK(adaptable_layers(spec, 0, {}).empty());
  CHECK(adaptable_layers(spec, 3, {}).size() == all.size());
}

TEST_CASE("keys that match nothing and too many layers are refused, with the choices") {
  const auto spec = llama32().spec;
  const auto message = message_of<ConfigError>([&] { adaptable_layers(spec, -1, {"self_attn.qkv_proj"}); });
  CHECK(contains(message, "self_attn.qkv_proj"));
  CHECK(contains(message, "self_attn.q_proj"));
  CHECK(contains(message, "mlp.down_proj"));
  CHECK_FALSE(message_of<ConfigError>([&] { adaptable_layers(spec, -1, {"q_proj"}); }).empty());
  const auto deep = message_of<ConfigError>([&] { adaptable_layers(spec, 16, {}); });
  CHECK(contains(deep, "16"));
  CHECK(contains(deep, "3 layers"));
}

TEST_CASE("the spec's tensors are the folder's, tied or not") {
  for (const std::string name : {"llama2", "llama32", "biases"}) {
    const auto model = load_model(kFixtures / name, "float32");
    const auto expected = expected_tensors(model.spec);
    CHECK(expected.size() == model.params.size());
    for (const auto& [tensor, shape] : expected) {
      CHECK(model.params.at(tensor).shape() == shape);
    }
    CHECK(model.params.contains("lm_head.weight") == !model.spec.tied_head);
  }
}
