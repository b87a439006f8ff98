// Qwen2, Qwen2.5 (biases on q, k, v), Qwen3 (norms on q and k instead) and Qwen3-MoE.
// Sources: arXiv:2407.10671 (Qwen2), arXiv:2412.15115 (Qwen2.5), arXiv:2505.09388 (Qwen3).
#include <algorithm>

#include "temper/models/families/families.h"

namespace temper {
namespace {

// Layers from max_window_layers on slide, if use_sliding_window says so.
void read_qwen_windows(ConfigReader& config, DecoderSpec& spec) {
  const int window = config.boolean("use_sliding_window", false) ? config.integer("sliding_window", 4096) : 0;
  const int first = config.integer("max_window_layers", 28);
  read_windows(config, spec, window, [&](int layer) { return layer >= first; });
  config.ignore({"sliding_window", "use_mrope"});
}

void read_experts(ConfigReader& config, DecoderSpec& spec) {
  // transformers 5 writes Mixtral's name for it.
  const int local = config.integer("num_local_experts", 0);
  spec.moe.num_experts = local > 0 ? config.integer("num_experts", local) : config.positive("num_experts");
  spec.moe.intermediate_size = config.positive("moe_intermediate_size");
  spec.moe.routing = {config.positive("num_experts_per_tok"), config.boolean("norm_topk_prob", false)};
  const auto dense = config.integers("mlp_only_layers");
  const int every = config.positive("decoder_sparse_step", 1);
  for (int i = 0; i < spec.num_layers; ++i) {
    const bool only_dense = std::find(dense.begin(), dense.end(), i) != dense.end();
    spec.layers[static_cast<std::size_t>(i)].moe = !only_dense && (i + 1) % every == 0;
  }
  config.ignore({"output_router_logits", "router_aux_loss_coef"});
}

DecoderSpec read_qwen(ConfigReader& config) {
  auto spec = read_common(config);
  const bool second = spec.model_type == "qwen2";
  spec.attention_bias = second || config.boolean("attention_bias", false);
  spec.output_bias = !second && spec.attention_bias;
  spec.qk_norm = second ? QkNorm::none : QkNorm::head;
  spec.ropes = {read_rope(config, spec.head_dim, 10000.0F)};
  read_qwen_windows(config, spec);
  if (spec.model_type == "qwen3_moe") {
    read_experts(config, spec);
  }
  config.expect("hidden_act", {"silu"});
  return spec;
}

} // namespace

Family qwen_family() {
  return {{"qwen2", "qwen3", "qwen3_moe"},
          "Qwen2, Qwen2.5, Qwen3, Qwen3-MoE",
          {"q, k, v biases or q, k norms", "sliding windows", "experts", "rope: yarn"},
          read_qwen,
          {.expert_part = "mlp.experts.", .stacked_experts = "mlp.switch_mlp."}};
}

} // namespace temper
