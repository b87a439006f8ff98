// gpt-oss: sinks, alternating windows, experts with biases and a clamped SwiGLU, stored in mxfp4.
// Source: arXiv:2508.10925 (the model card).
#include "temper/models/families/families.h"

namespace temper {
namespace {

DecoderSpec read_gpt_oss(ConfigReader& config) {
  auto spec = read_common(config);
  spec.attention_bias = config.boolean("attention_bias", true);
  spec.output_bias = spec.attention_bias;
  spec.sinks = true;
  spec.activation = Activation::clamped_swiglu;
  spec.activation_limit = config.number("swiglu_limit", 7.0F);
  spec.ropes = {read_rope(config, spec.head_dim, 150000.0F)};
  read_windows(config, spec, config.integer("sliding_window", 128), [](int layer) { return layer % 2 == 0; });
  spec.moe.num_experts = config.positive("num_local_experts");
  spec.moe.intermediate_size = spec.intermediate_size;
  spec.moe.routing = {config.positive("num_experts_per_tok"), true};
  spec.moe.bias = true;
  spec.moe.router = "router";
  spec.moe.experts = "experts";
  for (auto& layer : spec.layers) {
    layer.moe = true;
  }
  config.expect("hidden_act", {"silu"});
  config.expect("swiglu_alpha", {1.702});
  config.ignore(
      {"experts_per_token", "initial_context_length", "output_router_logits", "router_aux_loss_coef"});
  return spec;
}

// mxfp4 blocks [X, O, I / 32, 16] of bytes as the packed words [X, O, I / 8] that MLX has.
mx::array packed_words(const mx::array& blocks) {
  return mx::view(mx::flatten(mx::contiguous(blocks), -2, -1), mx::uint32);
}

// Gate and up are stored as one, row by row in turn; in bf16 checkpoints transposed too.
Params rearrange(const DecoderSpec&, Params stored) {
  Params params;
  const auto add_halves = [&](const std::string& module, const std::string& leaf, const mx::array& rows,
                              int axis) {
    auto start = mx::Shape(rows.ndim(), 0);
    auto strides = mx::Shape(rows.ndim(), 1);
    strides[static_cast<std::size_t>(axis)] = 2;
    for (const char* half : {"gate_proj", "up_proj"}) {
      params.emplace(module + half + leaf, mx::slice(rows, start, rows.shape(), strides));
      start[static_cast<std::size_t>(axis)] = 1;
    }
  };
  while (!stored.empty()) {
    const auto tensor = stored.extract(stored.begin());
    const auto& name = tensor.key();
    const auto& array = tensor.mapped();
    const auto split = name.find("experts.") == std::string::npos ? std::string::npos : name.rfind('.') + 1;
    const auto module = split == std::string::npos ? "" : name.substr(0, split);
    const auto leaf = split == std::string::npos ? "" : name.substr(split);
    if (leaf == "gate_up_proj") {
      add_halves(module, ".weight", mx::swapaxes(array, 1, 2), 1);
    } else if (leaf == "gate_up_proj_bias") {
      add_halves(module, ".bias", array, 1);
    } else if (leaf == "gate_up_proj_blocks") {
      add_halves(module, ".weight", packed_words(array), 1);
    } else if (leaf == "gate_up_proj_scales") {
      add_halves(module, ".scales", array, 1);
    } else if (leaf == "down_proj") {
      params.emplace(module + "down_proj.weight", mx::swapaxes(array, 1, 2));
    } else if (leaf == "down_proj_bias") {
      params.emplace(module + "down_proj.bias", array);
    } else if (leaf == "down_proj_blocks") {
      params.emplace(module + "down_proj.weight", packed_words(array));
    } else if (leaf == "down_proj_scales") {
      params.emplace(module + "down_proj.scales", array);
    } else {
      params.emplace(name, array);
    }
  }
  return params;
}

// Two halves [X, O, ...] as one [X, 2 O, ...] whose rows are theirs in turn.
mx::array in_turn(const mx::array& gate, const mx::array& up) {
  return mx::flatten(mx::stack({gate, up}, 2), 1, 2);
}

// As the bf16 checkpoints have it.
Params restore(const DecoderSpec&, Params params) {
  Params restored;
  for (const auto& [name, array] : params) {
    const auto at = name.find("experts.");
    const auto module = at == std::string::npos ? "" : name.substr(0, at + std::string("experts.").size());
    const auto leaf = name.substr(module.size());
    if (module.empty()) {
      restored.emplace(name, array);
    } else if (leaf == "gate_proj.weight") {
      const auto rows = in_turn(array, params.at(module + "up_proj.weight"));
      restored.emplace(module + "gate_up_proj", mx::swapaxes(rows, 1, 2));
    } else if (leaf == "gate_proj.bias") {
      restored.emplace(module + "gate_up_proj_bias", in_turn(array, params.at(module + "up_proj.bias")));
    } else if (leaf == "down_proj.weight") {
      restored.emplace(module + "down_proj", mx::swapaxes(array, 1, 2));
    } else if (leaf == "down_proj.bias") {
      restored.emplace(module + "down_proj_bias", array);
    }
  }
  return restored;
}

} // namespace

Family gpt_oss_family() {
  return {{"gpt_oss"},
          "gpt-oss",
          {"experts with biases, mxfp4", "sinks", "alternating windows", "yarn", "clamped SwiGLU"},
          read_gpt_oss,
          {.rearrange = rearrange, .restore = restore}};
}

} // namespace temper
