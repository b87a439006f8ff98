// Granite 3: Llama's blocks with four multipliers. Source: the Granite 3.0 language models' report (IBM, 2024).
#include "temper/models/families/families.h"

namespace temper {
namespace {

DecoderSpec read_granite(ConfigReader& config) {
  auto spec = read_common(config);
  spec.embedding_scale = config.number("embedding_multiplier", 1.0F);
  spec.residual_scale = config.number("residual_multiplier", 1.0F);
  spec.attention_scale = config.number("attention_multiplier", 1.0F);
  const float scaling = config.number("logits_scaling", 1.0F);
  if (!(scaling > 0.0F)) {
    config.fail("logits_scaling must be positive");
  }
  spec.logit_scale = 1.0F / scaling;
  spec.attention_bias = config.boolean("attention_bias", false);
  spec.output_bias = spec.attention_bias;
  spec.mlp_bias = config.boolean("mlp_bias", false);
  spec.ropes = {read_rope(config, spec.head_dim, 10000.0F)};
  config.expect("hidden_act", {"silu"});
  return spec;
}

} // namespace

Family granite_family() {
  return {{"granite"},
          "Granite 3",
          {"embedding, residual, attention and logit scales"},
          read_granite,
          {},
          nullptr,
          // Their blocks' largest values underflow a 4-bit float's scale.
          {"self_attn.o_proj", "mlp.down_proj", "lm_head"}};
}

} // namespace temper
