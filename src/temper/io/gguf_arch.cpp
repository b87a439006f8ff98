#include "temper/io/gguf_arch.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "temper/base/error.h"
#include "temper/models/tensors.h"

namespace temper {
namespace {

const std::vector<GgufArch>& archs() {
  static const std::vector<GgufArch> kAll{
      {.name = "llama",
       .model_types = {"llama", "mistral", "mixtral"},
       .rotates_neighbours = true,
       .output_bias = true,
       .mlp_bias = true,
       .window_keys = true,
       .rope_factors = true,
       .longrope = true},
      {.name = "qwen2", .model_types = {"qwen2"}, .square = true, .window_keys = true},
      {.name = "qwen3", .model_types = {"qwen3"}, .window_keys = true},
      {.name = "qwen3moe", .model_types = {"qwen3_moe"}, .window_keys = true},
      {.name = "qwen35",
       .model_types = {"qwen3_5", "qwen3_5_text"},
       .delta = true,
       .mlp_norm = "post_attention_norm"},
      {.name = "qwen35moe",
       .model_types = {"qwen3_5_moe", "qwen3_5_moe_text"},
       .delta = true,
       .mlp_norm = "post_attention_norm"},
      {.name = "gemma2", .model_types = {"gemma2"}, .tied_only = true, .windows = true},
      {.name = "gemma3", .model_types = {"gemma3", "gemma3_text"}, .windows = true},
      {.name = "phi3", .model_types = {"phi3"}, .square = true, .window_keys = true, .longrope = true},
      {.name = "olmo2", .model_types = {"olmo2"}, .needs_head = true, .square = true},
      {.name = "granite",
       .model_types = {"granite"},
       .rotates_neighbours = true,
       .output_bias = true,
       .mlp_bias = true,
       .rope_factors = true,
       .longrope = true,
       .scales = true},
      {.name = "smollm3", .model_types = {"smollm3"}, .rotates_neighbours = true, .window_keys = true},
      {.name = "lfm2", .model_types = {"lfm2"}, .square = true, .final_norm = "token_embd_norm"},
      {.name = "gpt-oss",
       .model_types = {"gpt_oss"},
       .needs_head = true,
       .output_bias = true,
       .windows = true,
       .mlp_norm = "post_attention_norm"},
  };
  return kAll;
}

bool any_layer(const DecoderSpec& spec, bool (*is)(const LayerSpec&)) {
  return std::any_of(spec.layers.begin(), spec.layers.end(), is);
}

// The narrowest window that is narrower than the context; 0: none.
int narrowest_window(const DecoderSpec& spec) {
  int narrowest = spec.ropes.front().max_positions;
  for (const auto& layer : spec.layers) {
    narrowest = layer.window > 0 ? std::min(narrowest, layer.window) : narrowest;
  }
  return narrowest < spec.ropes.front().max_positions ? narrowest : 0;
}

// SmolLM3's fixed pattern: every fourth layer has no rope.
bool has_usual_ropes(const DecoderSpec& spec, const GgufArch& arch) {
  const bool smollm3 = std::string_view(arch.name) == "smollm3";
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    const bool none = smollm3 && (i + 1) % 4 == 0;
    if ((spec.layers[i].rope == kNoRope) != none) {
      return false;
    }
  }
  return true;
}

// What the architecture cannot compute; "" if it can everything.
std::string missing_feature(const DecoderSpec& spec, const GgufArch& arch) {
  const auto rope = spec.ropes.empty() ? RopeType::plain : spec.ropes.front().type;
  const bool dense = any_layer(spec, [](const LayerSpec& layer) { return !layer.moe; });
  const std::pair<bool, const char*> lacks[] = {
      {arch.square && spec.num_heads * spec.head_dim != spec.hidden_size,
       "heads that together are wider or narrower than hidden_size"},
      {arch.tied_only && !spec.tied_head, "a head of its own (tie_word_embeddings is false)"},
      {!arch.output_bias && spec.output_bias, "a bias on attention's output"},
      {!arch.mlp_bias && spec.mlp_bias, "biases in the MLP"},
      {!arch.rope_factors && rope == RopeType::llama3, "rope of type llama3"},
      {!arch.longrope && rope == RopeType::longrope, "rope of type longrope"},
      {rope == RopeType::dynamic, "rope of type dynamic"},
      {!has_usual_ropes(spec, arch), "this choice of layers without rope"},
      {spec.activation == Activation::clamped_swiglu && spec.activation_limit != 7.0F,
       "a SwiGLU clamped elsewhere than at 7"},
      {arch.delta && !spec.gated_attention, "attention without a gate (attn_output_gate is false)"},
      {spec.delta.key_dim != spec.delta.value_dim,
       "linear attention whose keys and values have heads of different sizes"},
      {spec.conv.bias, "biases in short convolutions"},
      {spec.moe.num_experts > 0 && dense, "layers without experts among those with experts"},
      {spec.moe.num_experts > 0 && !spec.moe.routing.renormalize,
       "experts whose weights do not sum to 1 (norm_topk_prob is false)"},
  };
  const auto* found =
      std::find_if(std::begin(lacks), std::end(lacks), [](const auto& lack) { return lack.first; });
  return found == std::end(lacks) ? "" : found->second;
}

} // namespace

const GgufArch& find_gguf_arch(const DecoderSpec& spec, const std::string& origin) {
  for (const auto& arch : archs()) {
    if (std::find(arch.model_types.begin(), arch.model_types.end(), spec.model_type) !=
        arch.model_types.end()) {
      if (const auto missing = missing_feature(spec, arch); !missing.empty()) {
        throw ModelError(origin + ": llama.cpp's architecture " + arch.name + " does not know " + missing +
                         ": the model would answer otherwise there");
      }
      return arch;
    }
  }
  std::string known;
  for (const auto& arch : archs()) {
    for (const auto& type : arch.model_types) {
      known += (known.empty() ? "" : ", ") + type;
    }
  }
  throw ModelError(origin + ": models of type " + spec.model_type + " are not exported to GGUF; " + known +
                   " are");
}

std::vector<std::string> gguf_notes(const DecoderSpec& spec, const GgufArch& arch) {
  std::vector<std::string> notes;
  if (const int window = narrowest_window(spec); !arch.windows && window > 0) {
    notes.push_back(
        fmt::format("llama.cpp has no sliding window in {}: texts of more than {} tokens are seen whole there",
                    arch.name, window));
  }
  const auto& rope = spec.ropes.front();
  if (rope.type == RopeType::longrope) {
    notes.push_back(fmt::format(
        "llama.cpp chooses longrope's factors by the context's size, not the text's: the same up to {} tokens "
        "with a context (-c) no larger than that",
        rope.original_max_positions));
  }
  if (rope.type == RopeType::yarn && !rope.truncate) {
    notes.push_back("llama.cpp rounds yarn's correction range, this model does not: logits differ slightly");
  }
  return notes;
}

std::vector<std::pair<std::string, std::string>> gguf_tensor_names(const DecoderSpec& spec,
                                                                   const GgufArch& arch) {
  std::vector<std::pair<std::string, std::string>> modules{{spec.prefix + "embed_tokens", "token_embd"},
                                                           {spec.prefix + spec.final_norm, arch.final_norm},
                                                           {spec.head, "output"}};
  const auto& names = spec.names;
  const auto attention = names.attention + ".";
  const auto mlp = names.mlp + ".";
  const auto experts = spec.moe.mlp + "." + spec.moe.experts + ".";
  const auto shared = spec.moe.mlp + ".shared_expert";
  const std::string delta = "linear_attn.";
  const std::vector<std::pair<std::string, std::string>> parts{
      {names.mixer_norm, "attn_norm"},
      {attention + "q_proj", "attn_q"},
      {attention + "k_proj", "attn_k"},
      {attention + "v_proj", "attn_v"},
      {attention + "qkv_proj", "attn_qkv"},
      {attention + names.output, "attn_output"},
      {attention + names.q_norm, "attn_q_norm"},
      {attention + names.k_norm, "attn_k_norm"},
      {attention + "sinks", "attn_sinks.weight"},
      {"conv.in_proj", "shortconv.in_proj"},
      {"conv.conv", "shortconv.conv"},
      {"conv.out_proj", "shortconv.out_proj"},
      {delta + "in_proj_qkv", "attn_qkv"},
      {delta + "in_proj_z", "attn_gate"},
      {delta + "in_proj_b", "ssm_beta"},
      {delta + "in_proj_a", "ssm_alpha"},
      {delta + "conv1d", "ssm_conv1d"},
      {delta + "A_log", "ssm_a"},
      {delta + "dt_bias", "ssm_dt.bias"},
      {delta + "norm", "ssm_norm"},
      {delta + "out_proj", "ssm_out"},
      {names.mixer_post_norm, "post_attention_norm"},
      {names.mlp_norm, arch.mlp_norm},
      {mlp + names.gate, "ffn_gate"},
      {mlp + names.up, "ffn_up"},
      {mlp + "gate_up_proj", "ffn_up"},
      {mlp + names.down, "ffn_down"},
      {spec.moe.mlp + "." + spec.moe.router, "ffn_gate_inp"},
      {experts + names.gate, "ffn_gate_exps"},
      {experts + names.up, "ffn_up_exps"},
      {experts + names.down, "ffn_down_exps"},
      {shared + "_gate", "ffn_gate_inp_shexp"},
      {shared + "." + names.gate, "ffn_gate_shexp"},
      {shared + "." + names.up, "ffn_up_shexp"},
      {shared + "." + names.down, "ffn_down_shexp"},
      {names.mlp_post_norm, "post_ffw_norm"},
  };
  for (int i = 0; i < spec.num_layers; ++i) {
    for (const auto& [ours, theirs] : parts) {
      if (!ours.empty()) {
        modules.emplace_back(block_prefix(spec, i) + ours, fmt::format("blk.{}.{}", i, theirs));
      }
    }
  }
  std::map<std::string, bool> expected;
  for (const auto& [name, shape] : expected_tensors(spec)) {
    expected.emplace(name, true);
  }
  std::vector<std::pair<std::string, std::string>> tensors;
  for (const auto& [ours, theirs] : modules) {
    for (const char* leaf : {".weight", ".bias", ""}) {
      if (expected.contains(ours + leaf)) {
        tensors.emplace_back(ours + leaf, theirs + leaf);
      }
    }
  }
  if (tensors.size() != expected.size()) {
    throw ModelError(fmt::format("{}: {} tensors, of which the GGUF export knows {}", spec.model_type,
                                 expected.size(), tensors.size()));
  }
  return tensors;
}

bool is_permuted(const DecoderSpec& spec, const GgufArch& arch, const std::string& tensor) {
  const auto attention = "." + spec.names.attention + ".";
  return arch.rotates_neighbours && (tensor.find(attention + "q_proj.") != std::string::npos ||
                                     tensor.find(attention + "k_proj.") != std::string::npos);
}

namespace {

// Exchanges the two halves' axis and the one within them.
mx::array exchange(const mx::array& rows, int head_dim, bool halves_first) {
  auto shape = rows.shape();
  mx::Shape split{shape[0] / head_dim, halves_first ? 2 : head_dim / 2, halves_first ? head_dim / 2 : 2};
  split.insert(split.end(), shape.begin() + 1, shape.end());
  return mx::reshape(mx::swapaxes(mx::reshape(rows, split), 1, 2), shape);
}

// The heads that share a key head, and the key heads, exchanged.
mx::array exchange_value_heads(const ValueHeads& where, const mx::array& array, int outer, int inner) {
  const int axis = where.axis < 0 ? static_cast<int>(array.ndim()) - 1 : where.axis;
  const auto parts = mx::split(array, mx::Shape{where.begin}, axis);
  const auto& heads = parts.back();
  const int features = heads.shape(axis) / (outer * inner);
  if (features * outer * inner != heads.shape(axis)) {
    throw ModelError("a block of packed weights spans value heads of linear attention: unpack the model first");
  }
  auto shape = heads.shape();
  const auto at = shape.erase(shape.begin() + axis);
  shape.insert(at, {outer, inner, features});
  const auto swapped = mx::swapaxes(mx::reshape(heads, shape), axis, axis + 1);
  return mx::concatenate({parts.front(), mx::reshape(swapped, heads.shape())}, axis);
}

// llama.cpp's own scale of the scores in Gemma: what it takes for 27 billion parameters goes by the layers.
float fixed_attention_scale(const DecoderSpec& spec, const GgufArch& arch) {
  const bool second = std::string_view(arch.name) == "gemma2";
  const bool large = spec.num_layers == (second ? 46 : 62);
  const int features = large ? spec.hidden_size / spec.num_heads : spec.head_dim;
  return 1.0F / std::sqrt(static_cast<float>(features));
}

} // namespace

mx::array interleave_heads(const mx::array& rows, int head_dim) {
  return exchange(rows, head_dim, true);
}

mx::array separate_heads(const mx::array& rows, int head_dim) {
  return exchange(rows, head_dim, false);
}

std::optional<ValueHeads> value_heads(const DecoderSpec& spec, const std::string& tensor) {
  const auto module = tensor.find(".linear_attn.");
  if (module == std::string::npos) {
    return std::nullopt;
  }
  const auto part = tensor.substr(module + std::string_view(".linear_attn.").size());
  if (part.starts_with("norm.")) {
    return std::nullopt;
  }
  const bool after_keys = part.starts_with("in_proj_qkv.") || part.starts_with("conv1d.");
  return ValueHeads{part.starts_with("out_proj.") ? -1 : 0,
                    after_keys ? 2 * spec.delta.num_key_heads * spec.delta.key_dim : 0};
}

mx::array tile_value_heads(const DecoderSpec& spec, const ValueHeads& where, const mx::array& array) {
  const int keys = spec.delta.num_key_heads;
  return exchange_value_heads(where, array, keys, spec.delta.num_value_heads / keys);
}

mx::array group_value_heads(const DecoderSpec& spec, const ValueHeads& where, const mx::array& array) {
  const int keys = spec.delta.num_key_heads;
  return exchange_value_heads(where, array, spec.delta.num_value_heads / keys, keys);
}

mx::array to_gguf_tensor(const DecoderSpec& spec, const GgufArch& arch, const std::string& name,
                         const mx::array& array) {
  auto out = is_permuted(spec, arch, name) ? interleave_heads(array, spec.head_dim) : array;
  if (spec.norm_plus_one && array.ndim() == 1 && name.ends_with("norm.weight")) {
    out = mx::astype(out, mx::float32) + mx::array(1.0F);
  }
  if (out.ndim() == 3 && (name.ends_with("conv.weight") || name.ends_with("conv1d.weight"))) {
    out = mx::squeeze(out, 2); // [channels, taps]
  }
  if (const auto heads = value_heads(spec, name)) {
    out = tile_value_heads(spec, *heads, out);
  }
  if (name.ends_with(".A_log")) {
    out = -mx::exp(mx::astype(out, mx::float32));
  }
  if (name.ends_with("shared_expert_gate.weight")) {
    out = mx::squeeze(out, 0);
  }
  // A scale of the scores other than llama.cpp's goes into q: into its norm where it has one.
  const bool gemma = spec.norm_plus_one && spec.attention_scale != 0.0F;
  const auto q = "." + spec.names.attention + (spec.qk_norm == QkNorm::head ? ".q_norm." : ".q_proj.");
  if (gemma && name.find(q) != std::string::npos) {
    const float ratio = spec.attention_scale / fixed_attention_scale(spec, arch);
    if (std::abs(ratio - 1.0F) > 1e-6F) {
      out = mx::astype(out, mx::float32) * mx::array(ratio);
    }
  }
  return out;
}

} // namespace temper
