#include "temper/models/decoder.h"

#include <algorithm>
#include <cmath>

#include "temper/base/error.h"
#include "temper/nn/fused.h"
#include "temper/nn/host_op.h"

namespace temper {
namespace {

constexpr std::uint32_t kSitesPerBlock = 16; // more than a block has linears

std::string block_prefix(int layer) {
  return "model.layers." + std::to_string(layer) + ".";
}

struct LinearShape {
  const char* name; // within the block
  int out_features;
  int in_features;
  bool bias;
};

std::vector<LinearShape> block_linears(const DecoderSpec& s) {
  const int q = s.num_heads * s.head_dim;
  const int kv = s.num_kv_heads * s.head_dim;
  return {
      {"self_attn.q_proj", q, s.hidden_size, s.attention_bias},
      {"self_attn.k_proj", kv, s.hidden_size, s.attention_bias},
      {"self_attn.v_proj", kv, s.hidden_size, s.attention_bias},
      {"self_attn.o_proj", s.hidden_size, q, s.output_bias},
      {"mlp.gate_proj", s.intermediate_size, s.hidden_size, s.mlp_bias},
      {"mlp.up_proj", s.intermediate_size, s.hidden_size, s.mlp_bias},
      {"mlp.down_proj", s.hidden_size, s.intermediate_size, s.mlp_bias},
  };
}

mx::array norm(const ForwardContext& context, const std::string& name, const mx::array& x, float eps) {
  return rms_norm(x, mx::astype(context.params.at(name + ".weight"), x.dtype()), eps);
}

mx::array split_heads(const mx::array& x_BTC, int heads) {
  const int head_dim = x_BTC.shape(2) / heads;
  return mx::transpose(mx::reshape(x_BTC, {x_BTC.shape(0), x_BTC.shape(1), heads, head_dim}), {0, 2, 1, 3});
}

// Rotated, causal attention of q [B, T, H D], k, v [B, T, G D] -> [B, T, H D].
mx::array self_attention(const DecoderSpec& spec, const AttentionPlan& plan, const RopeTable& rope, int layer,
                         const mx::array& q, const mx::array& k, const mx::array& v) {
  const float scale = 1.0F / std::sqrt(static_cast<float>(spec.head_dim));
  const int window = spec.windows.at(static_cast<std::size_t>(layer));
  if (plan.host_documents_M2 && use_host_kernels(q)) {
    const auto rows = [](const mx::array& table_B1TK) { return mx::flatten(table_B1TK, 0, 2); };
    return host_attention({*plan.host_documents_M2, rows(rope.cos_B1TK), rows(rope.sin_B1TK), spec.num_heads,
                           spec.num_kv_heads, scale, window},
                          q, k, v);
  }
  const auto attended = attention(plan, apply_rope(rope, split_heads(q, spec.num_heads)),
                                  apply_rope(rope, split_heads(k, spec.num_kv_heads)),
                                  split_heads(v, spec.num_kv_heads), scale, window, layer);
  return mx::flatten(mx::transpose(attended, {0, 2, 1, 3}), 2, 3);
}

// One transformer block, x [B, T, E] -> [B, T, E].
mx::array block(const DecoderSpec& spec, ForwardContext& context, const DecoderInput& input,
                const RopeTable& rope, int layer, const mx::array& x) {
  const auto prefix = block_prefix(layer);
  // A block's dropout keys depend on its index, so that recomputing it draws the same mask.
  context.dropout_site = static_cast<std::uint32_t>(layer) * kSitesPerBlock;
  const auto normed = norm(context, prefix + "input_layernorm", x, spec.norm_eps);
  const auto q = linear(context, prefix + "self_attn.q_proj", normed);
  const auto k = linear(context, prefix + "self_attn.k_proj", normed);
  const auto v = linear(context, prefix + "self_attn.v_proj", normed);
  const auto merged = self_attention(spec, input.attention, rope, layer, q, k, v);
  const auto h = x + linear(context, prefix + "self_attn.o_proj", merged);

  const auto ffn_in = norm(context, prefix + "post_attention_layernorm", h, spec.norm_eps);
  const auto gate = linear(context, prefix + "mlp.gate_proj", ffn_in);
  const auto up = linear(context, prefix + "mlp.up_proj", ffn_in);
  return h + linear(context, prefix + "mlp.down_proj", swiglu(gate, up));
}

// `layer`'s tensors of both maps, in the order that Checkpointed sees them.
Params block_params(const ParamView& view, const DecoderSpec& spec, int layer) {
  Params params;
  const auto prefix = block_prefix(layer);
  const auto take = [&](const std::string& name) {
    if (const auto* array = view.find(name)) {
      params.emplace(name, *array);
    }
  };
  take(prefix + "input_layernorm.weight");
  take(prefix + "post_attention_layernorm.weight");
  for (const auto& shape : block_linears(spec)) {
    for (const char* leaf : {".weight", ".bias", ".lora_a", ".lora_b"}) {
      take(prefix + shape.name + leaf);
    }
  }
  return params;
}

// The block, keeping only its inputs for the backward pass. checkpoint() differentiates explicit inputs
// alone, so everything that may need a gradient is one; the rest is captured by value, since the backward
// pass runs after this function's caller has returned.
mx::array checkpointed_block(const DecoderSpec& spec, const ForwardContext& context, const DecoderInput& input,
                             const RopeTable& rope, int layer, const mx::array& x) {
  const auto params = block_params(context.params, spec, layer);
  const auto run = [spec, input, rope, layer, params, lora = context.lora,
                    key = context.dropout_key](const std::vector<mx::array>& in) {
    const auto own = with_values(params, in, 1);
    ForwardContext inner{ParamView(own), lora, key};
    return std::vector<mx::array>{block(spec, inner, input, rope, layer, in[0])};
  };
  std::vector<mx::array> inputs{x};
  for (const auto& [name, array] : params) {
    inputs.push_back(array);
  }
  return mx::checkpoint(run)(inputs)[0];
}

mx::array default_positions(const DecoderInput& input) {
  const int offset = input.attention.cache != nullptr ? input.attention.cache->offset() : 0;
  const int width = input.tokens_BT.shape(1);
  return mx::expand_dims(mx::arange(offset, offset + width, 1, mx::int32), 0);
}

} // namespace

std::vector<std::pair<std::string, mx::Shape>> expected_tensors(const DecoderSpec& spec) {
  std::vector<std::pair<std::string, mx::Shape>> tensors{
      {"model.embed_tokens.weight", {spec.vocab_size, spec.hidden_size}},
      {"model.norm.weight", {spec.hidden_size}},
  };
  if (!spec.tied_head) {
    tensors.push_back({"lm_head.weight", {spec.vocab_size, spec.hidden_size}});
  }
  for (int layer = 0; layer < spec.num_layers; ++layer) {
    const auto prefix = block_prefix(layer);
    tensors.push_back({prefix + "input_layernorm.weight", {spec.hidden_size}});
    tensors.push_back({prefix + "post_attention_layernorm.weight", {spec.hidden_size}});
    for (const auto& shape : block_linears(spec)) {
      tensors.push_back({prefix + shape.name + ".weight", {shape.out_features, shape.in_features}});
      if (shape.bias) {
        tensors.push_back({prefix + shape.name + ".bias", {shape.out_features}});
      }
    }
  }
  return tensors;
}

std::vector<std::pair<std::string, mx::Shape>> adaptable_layers(const DecoderSpec& spec, int num_layers,
                                                                const std::vector<std::string>& keys) {
  const auto linears = block_linears(spec);
  for (const auto& key : keys) {
    if (std::none_of(linears.begin(), linears.end(), [&](const auto& shape) { return key == shape.name; })) {
      std::string choices;
      for (const auto& shape : linears) {
        choices += (choices.empty() ? "" : ", ") + std::string(shape.name);
      }
      throw ConfigError("lora_parameters.keys: " + key + " matches no layer of this model; choose from " +
                        choices);
    }
  }
  if (num_layers > spec.num_layers) {
    throw ConfigError("num_layers: " + std::to_string(num_layers) + " asked for, but the model has " +
                      std::to_string(spec.num_layers) + " layers; -1 means all");
  }
  std::vector<std::pair<std::string, mx::Shape>> layers;
  for (int layer = num_layers < 0 ? 0 : spec.num_layers - num_layers; layer < spec.num_layers; ++layer) {
    for (const auto& shape : linears) {
      if (keys.empty() || std::find(keys.begin(), keys.end(), shape.name) != keys.end()) {
        layers.push_back({block_prefix(layer) + shape.name, {shape.out_features, shape.in_features}});
      }
    }
  }
  return layers;
}

mx::array decoder_hidden(const DecoderSpec& spec, ForwardContext& context, const DecoderInput& input) {
  const auto positions = input.positions_BT ? *input.positions_BT : default_positions(input);
  const auto rope = make_rope_table(spec.rope, positions, input.lengths_BT);
  auto x = mx::take(context.params.at("model.embed_tokens.weight"), input.tokens_BT, 0);
  for (int layer = 0; layer < spec.num_layers; ++layer) {
    x = input.checkpoint ? checkpointed_block(spec, context, input, rope, layer, x)
                         : block(spec, context, input, rope, layer, x);
  }
  return norm(context, "model.norm", x, spec.norm_eps);
}

const mx::array& head_weight(const DecoderSpec& spec, const ParamView& params) {
  return params.at(spec.tied_head ? "model.embed_tokens.weight" : "lm_head.weight");
}

mx::array decoder_logits(const DecoderSpec& spec, const ParamView& params, const mx::array& hidden) {
  return mx::matmul(hidden, mx::transpose(mx::astype(head_weight(spec, params), hidden.dtype())));
}

} // namespace temper
