#include "temper/models/quant_plan.h"

#include "io/tiny_model.h"
#include "temper/base/error.h"

using namespace temper;
using namespace temper::test;

namespace {

DecoderSpec spec_of(const Json& changes = Json::object()) {
  auto config = tiny_config({{"hidden_size", 128}, {"intermediate_size", 256}, {"tie_word_embeddings", false}});
  config.update(changes);
  return read_spec(config, "config.json");
}

const QuantFormat kFourBits{"affine", 4, 64};
const QuantFormat kEightBits{"affine", 8, 64};

} // namespace

TEST_CASE("one format for every layer") {
  const auto spec = spec_of();
  const auto plan = plan_quantization(spec, {kFourBits, "", {}});
  CHECK(plan.size() == matrix_layers(spec).size());
  for (const auto& [layer, format] : plan) {
    CHECK(format == kFourBits);
  }
}

TEST_CASE("layers are left out by whole name, by name within the block, or by its last part") {
  const auto spec = spec_of();
  const auto plan =
      plan_quantization(spec, {kFourBits, "", {"lm_head", "self_attn.v_proj", "model.layers.1.mlp.up_proj"}});
  CHECK_FALSE(plan.contains("lm_head"));
  CHECK_FALSE(plan.contains("model.layers.0.self_attn.v_proj"));
  CHECK_FALSE(plan.contains("model.layers.1.self_attn.v_proj"));
  CHECK_FALSE(plan.contains("model.layers.1.mlp.up_proj"));
  CHECK(plan.size() == matrix_layers(spec).size() - 4);
  const auto message = message_of<ConfigError>([&] { plan_quantization(spec, {kFourBits, "", {"head"}}); });
  CHECK(contains(message, "keep: head matches no layer"));
  CHECK(contains(message, "lm_head, mlp.down_proj"));
}

TEST_CASE("routers and what a family calls sensitive take 8 bits; a router that does not fit stays") {
  const Json experts{{"model_type", "mixtral"}, {"num_local_experts", 4}, {"num_experts_per_tok", 2}};
  const auto moe = plan_quantization(spec_of(experts), {make_quant_format("nvfp4"), "", {}});
  CHECK(moe.at("model.layers.0.block_sparse_moe.gate") == kEightBits);
  CHECK(moe.at("model.layers.0.block_sparse_moe.switch_mlp.up_proj") == make_quant_format("nvfp4"));
  const auto granite = plan_quantization(spec_of({{"model_type", "granite"}}), {kFourBits, "", {}});
  CHECK(granite.at("model.layers.1.mlp.down_proj") == kEightBits);
  CHECK(granite.at("model.layers.1.mlp.up_proj") == kFourBits);
  auto narrow = experts;
  narrow.update({{"hidden_size", 48}, {"intermediate_size", 48}});
  const auto plan = plan_quantization(spec_of(narrow), {make_quant_format("nvfp4"), "", {}});
  CHECK_FALSE(plan.contains("model.layers.0.block_sparse_moe.gate"));
}

TEST_CASE("a recipe gives more bits to some layers") {
  const auto spec = spec_of({{"num_hidden_layers", 9}});
  QuantChoice choice;
  choice.format.group_size = 32;
  choice.recipe = "mixed_3_6";
  CHECK(base_format(choice) == QuantFormat{"affine", 3, 32});
  const auto plan = plan_quantization(spec, choice);
  const auto bits = [&](const std::string& layer) { return plan.at(layer).bits; };
  CHECK(bits("lm_head") == 6);
  CHECK(bits("model.embed_tokens") == 3);
  for (int i = 0; i < 9; ++i) {
    const bool more = i == 0 || i == 3 || i == 6 || i >= 7; // an eighth at each end, every third between
    CHECK(bits("model.layers." + std::to_string(i) + ".self_attn.v_proj") == (more ? 6 : 3));
    CHECK(bits("model.layers." + std::to_string(i) + ".mlp.down_proj") == (more ? 6 : 3));
    CHECK(bits("model.layers." + std::to_string(i) + ".mlp.up_proj") == 3);
  }
  CHECK(contains(message_of<ConfigError>([&] {
                   plan_quantization(spec, {kFourBits, "mixed_1_2", {}});
                 }),
                 "mixed_1_2 is not one of mixed_2_6"));
}

TEST_CASE("a format that does not fit a layer is refused by the layer's name") {
  const auto spec = spec_of({{"intermediate_size", 96}});
  const auto message = message_of<ModelError>([&] { plan_quantization(spec, {kFourBits, "", {}}); });
  CHECK(contains(message, "layer mlp.down_proj"));
  CHECK(contains(message, "group sizes that fit: 32"));
}
