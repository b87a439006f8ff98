// OLMo 2: norms on what a layer gives instead of what it takes, and on all of q and k at once.
// Source: arXiv:2501.00656.
#include "temper/models/families/families.h"

namespace temper {
namespace {

DecoderSpec read_olmo2(ConfigReader& config) {
  auto spec = read_common(config);
  spec.qk_norm = QkNorm::full;
  spec.names.mixer_norm = "";
  spec.names.mixer_post_norm = "post_attention_layernorm";
  spec.names.mlp_norm = "";
  spec.names.mlp_post_norm = "post_feedforward_layernorm";
  spec.attention_bias = config.boolean("attention_bias", false);
  spec.output_bias = spec.attention_bias;
  spec.ropes = {read_rope(config, spec.head_dim, 10000.0F)};
  config.expect("hidden_act", {"silu"});
  return spec;
}

} // namespace

Family olmo2_family() {
  return {{"olmo2"}, "OLMo 2", {"norms after layers", "norms on all of q, k"}, read_olmo2, {}};
}

} // namespace temper
