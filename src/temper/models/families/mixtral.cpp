// Mixtral: Mistral's attention over a mixture of experts. Source: arXiv:2401.04088.
#include "temper/models/families/families.h"

namespace temper {
namespace {

DecoderSpec read_mixtral(ConfigReader& config) {
  auto spec = read_common(config);
  spec.ropes = {read_rope(config, spec.head_dim, 1e6F)};
  read_windows(config, spec, config.integer("sliding_window", 0), [](int) { return true; });
  spec.moe.num_experts = config.positive("num_local_experts");
  spec.moe.intermediate_size = spec.intermediate_size;
  spec.moe.routing = {config.positive("num_experts_per_tok"), true};
  spec.moe.mlp = "block_sparse_moe";
  for (auto& layer : spec.layers) {
    layer.moe = true;
  }
  config.expect("hidden_act", {"silu"});
  config.ignore({"output_router_logits", "router_aux_loss_coef", "router_jitter_noise"});
  return spec;
}

} // namespace

Family mixtral_family() {
  return {{"mixtral"},
          "Mixtral",
          {"experts", "sliding window"},
          read_mixtral,
          {.renames = {{".switch_mlp.w1.", ".switch_mlp.gate_proj."},
                       {".switch_mlp.w2.", ".switch_mlp.down_proj."},
                       {".switch_mlp.w3.", ".switch_mlp.up_proj."}},
           .expert_part = "block_sparse_moe.experts.",
           .stacked_experts = "block_sparse_moe.switch_mlp."}};
}

} // namespace temper
