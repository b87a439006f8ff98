// Phi-3, Phi-3.5 and Phi-4-mini: fused projections, longrope, and (Phi-4) only a part of each head rotated.
// Sources: arXiv:2404.14219 (Phi-3), arXiv:2503.01743 (Phi-4-mini).
#include "temper/models/families/families.h"

namespace temper {
namespace {

DecoderSpec read_phi3(ConfigReader& config) {
  auto spec = read_common(config);
  spec.fused_qkv = true;
  spec.fused_gate_up = true;
  spec.ropes = {read_rope(config, spec.head_dim, 10000.0F)};
  read_windows(config, spec, config.integer("sliding_window", 0), [](int) { return true; });
  config.expect("hidden_act", {"silu"});
  config.expect("attention_bias", {false});
  config.expect("mlp_bias", {false});
  config.expect("lm_head_bias", {false});
  config.ignore({"embd_pdrop", "resid_pdrop", "full_attn_mod", "interpolate_factor"});
  return spec;
}

} // namespace

Family phi3_family() {
  return {{"phi3"},
          "Phi-3, Phi-3.5, Phi-4-mini",
          {"fused projections", "longrope", "partial rope", "sliding window"},
          read_phi3,
          {}};
}

} // namespace temper
