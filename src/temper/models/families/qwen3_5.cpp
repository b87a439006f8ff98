// Qwen3.5, dense and with experts: three layers of gated delta net, then one of gated attention.
// Source: arXiv:2412.06464 (gated delta networks); the model cards of Qwen3-Next and Qwen3.5.
#include "temper/models/families/families.h"

namespace temper {
namespace {

void read_delta_net(ConfigReader& config, DecoderSpec& spec) {
  const int interval = config.positive("full_attention_interval", 4);
  const auto linear = layers_of_kind(config, spec, "linear_attention",
                                     [interval](int layer) { return (layer + 1) % interval != 0; });
  for (std::size_t i = 0; i < linear.size(); ++i) {
    spec.layers[i].mixer = linear[i] ? Mixer::gated_delta : Mixer::attention;
  }
  spec.delta = {config.positive("linear_num_key_heads"), config.positive("linear_num_value_heads"),
                config.positive("linear_key_head_dim"), config.positive("linear_value_head_dim"),
                config.positive("linear_conv_kernel_dim", 4)};
  if (spec.delta.num_value_heads % spec.delta.num_key_heads != 0) {
    config.fail("linear_num_value_heads must be a multiple of linear_num_key_heads");
  }
}

DecoderSpec read_qwen3_5(ConfigReader& config) {
  auto spec = read_common(config);
  if (!spec.model_type.ends_with("_text")) {
    spec.prefix = "language_model.model.";
    spec.head = "language_model.lm_head";
  }
  spec.qk_norm = QkNorm::head;
  spec.gated_attention = config.boolean("attn_output_gate", true);
  spec.attention_bias = config.boolean("attention_bias", false);
  spec.output_bias = spec.attention_bias;
  spec.ropes = {read_rope(config, spec.head_dim, 10000.0F)};
  read_delta_net(config, spec);
  if (spec.model_type.starts_with("qwen3_5_moe")) {
    spec.moe.num_experts = config.positive("num_experts");
    spec.moe.intermediate_size = config.positive("moe_intermediate_size");
    spec.moe.shared_intermediate_size = config.integer("shared_expert_intermediate_size", 0);
    spec.moe.routing = {config.positive("num_experts_per_tok"), true};
    for (auto& layer : spec.layers) {
      layer.moe = true;
    }
  }
  config.expect("hidden_act", {"silu"});
  config.ignore({"mamba_ssm_dtype", "mlp_only_layers", "mtp_num_hidden_layers", "mtp_use_dedicated_embeddings",
                 "output_router_logits", "router_aux_loss_coef"});
  return spec;
}

// Norms that the hub stores as what is added to 1.
bool is_offset_norm(const std::string& name, const mx::array& array) {
  return array.ndim() == 1 && name.ends_with("norm.weight") && !name.ends_with("linear_attn.norm.weight");
}

// Checkpoints from the hub store norms as 1 + weight, which MLX's converted ones have added up, and experts'
// gate and up as one.
Params rearrange(const DecoderSpec&, Params stored) {
  bool from_hub = false;
  for (const auto& [name, array] : stored) {
    from_hub = from_hub || (name.ends_with("conv1d.weight") && array.shape(-1) != 1);
  }
  Params params;
  for (const auto& [name, array] : transpose_convolutions(std::move(stored), "conv1d.weight")) {
    const auto experts = name.find("mlp.experts.");
    if (experts != std::string::npos && name.ends_with("gate_up_proj")) {
      const auto halves = mx::split(array, 2, 1);
      const auto module = name.substr(0, experts) + "mlp.switch_mlp.";
      params.emplace(module + "gate_proj.weight", halves[0]);
      params.emplace(module + "up_proj.weight", halves[1]);
    } else if (experts != std::string::npos && name.ends_with("down_proj")) {
      params.emplace(name.substr(0, experts) + "mlp.switch_mlp.down_proj.weight", array);
    } else if (from_hub && is_offset_norm(name, array)) {
      params.emplace(name, mx::astype(array, mx::float32) + mx::array(1.0F));
    } else {
      params.emplace(name, array);
    }
  }
  return params;
}

Params restore(const DecoderSpec&, Params params) {
  params = restore_convolutions(std::move(params), "conv1d.weight");
  for (auto& [name, array] : params) {
    if (is_offset_norm(name, array)) {
      array = mx::astype(array, mx::float32) - mx::array(1.0F);
    }
  }
  return params;
}

// The same, with experts' gate and up as one.
Params restore_joined(const DecoderSpec& spec, Params params) {
  const auto separate = restore(spec, std::move(params));
  Params restored;
  for (const auto& [name, array] : separate) {
    const auto experts = name.find("mlp.switch_mlp.");
    const auto block = name.substr(0, experts);
    if (experts == std::string::npos) {
      restored.emplace(name, array);
    } else if (name.ends_with("gate_proj.weight")) {
      const auto& up = separate.at(block + "mlp.switch_mlp.up_proj.weight");
      restored.emplace(block + "mlp.experts.gate_up_proj", mx::concatenate({array, up}, 1));
    } else if (name.ends_with("down_proj.weight")) {
      restored.emplace(block + "mlp.experts.down_proj", array);
    }
  }
  return restored;
}

const WeightLayout kNested{
    .prefixes = {{"model.language_model.", "language_model.model."}, {"lm_head.", "language_model.lm_head."}},
    .left_out = {"mtp.", "model.visual.", "vision_tower."},
    .expert_part = "mlp.experts.",
    .stacked_experts = "mlp.switch_mlp.",
    .rearrange = rearrange,
    .restore = restore_joined};
const WeightLayout kText{.left_out = {"mtp."},
                         .expert_part = "mlp.experts.", // stored one by one by transformers 5
                         .stacked_experts = "mlp.switch_mlp.",
                         .rearrange = rearrange,
                         .restore = restore};

} // namespace

Family qwen3_5_family() {
  return {{"qwen3_5", "qwen3_5_moe"},
          "Qwen3.5, Qwen3.5-MoE (the language tower)",
          {"gated delta net, in chunks", "gated attention", "partial rope", "experts with a shared one"},
          read_qwen3_5,
          kNested,
          "text_config"};
}

Family qwen3_5_text_family() {
  return {{"qwen3_5_text", "qwen3_5_moe_text"},
          "Qwen3.5 (text)",
          {"gated delta net, in chunks", "gated attention", "partial rope", "experts with a shared one"},
          read_qwen3_5,
          kText};
}

} // namespace temper
