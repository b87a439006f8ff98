#include "temper/models/block.h"

#include <cmath>

#include "temper/models/tensors.h"
#include "temper/nn/fused.h"
#include "temper/nn/gated_delta.h"
#include "temper/nn/host_op.h"
#include "temper/nn/random.h"
#include "temper/nn/short_conv.h"

namespace temper {
namespace {

constexpr std::uint32_t kSitesPerBlock = 16; // more than a block has layers that draw a key

std::vector<mx::array> split_at(const mx::array& x, const std::vector<int>& widths) {
  mx::Shape borders;
  int at = 0;
  for (std::size_t i = 0; i + 1 < widths.size(); ++i) {
    borders.push_back(at += widths[i]);
  }
  return mx::split(x, borders, -1);
}

mx::array split_heads(const mx::array& x_BTC, int heads) {
  const int head_dim = x_BTC.shape(2) / heads;
  return mx::transpose(mx::reshape(x_BTC, {x_BTC.shape(0), x_BTC.shape(1), heads, head_dim}), {0, 2, 1, 3});
}

struct Queries {
  mx::array q_BTC; // all heads' features side by side
  mx::array k_BTC;
  mx::array v_BTC;
  std::optional<mx::array> gate_BTC;
};

Queries project(const DecoderSpec& spec, ForwardContext& context, const std::string& name, const mx::array& x) {
  if (spec.fused_qkv) {
    const int kv = spec.num_kv_heads * spec.head_dim;
    const auto parts =
        split_at(linear(context, name + "qkv_proj", x), {spec.num_heads * spec.head_dim, kv, kv});
    return {parts[0], parts[1], parts[2], std::nullopt};
  }
  auto q = linear(context, name + "q_proj", x);
  const auto k = linear(context, name + "k_proj", x);
  const auto v = linear(context, name + "v_proj", x);
  if (!spec.gated_attention) {
    return {q, k, v, std::nullopt};
  }
  const auto parts = mx::split(mx::unflatten(q, 2, {spec.num_heads, 2 * spec.head_dim}), 2, -1);
  return {mx::flatten(parts[0], 2, 3), k, v, mx::flatten(parts[1], 2, 3)};
}

void normalize(const DecoderSpec& spec, const ForwardContext& context, const std::string& name, Queries& q) {
  const auto apply = [&](const mx::array& x, const std::string& weight, int heads) {
    if (spec.qk_norm == QkNorm::full) {
      return norm(spec, context, name + weight, x);
    }
    return mx::flatten(norm(spec, context, name + weight, mx::unflatten(x, 2, {heads, spec.head_dim})), 2, 3);
  };
  if (spec.qk_norm != QkNorm::none) {
    q.q_BTC = apply(q.q_BTC, spec.names.q_norm, spec.num_heads);
    q.k_BTC = apply(q.k_BTC, spec.names.k_norm, spec.num_kv_heads);
  }
}

// Rotated, causal attention of q [B, T, H D], k, v [B, T, G D] -> [B, T, H D].
mx::array attend(const DecoderSpec& spec, const PassInput& input, const AttentionSettings& settings, int layer,
                 const Queries& in) {
  const int rope = spec.layers.at(static_cast<std::size_t>(layer)).rope;
  const auto& plan = input.attention;
  if (plan.host_documents_M2 && use_host_kernels(in.q_BTC)) {
    const int num_tokens = in.q_BTC.shape(0) * in.q_BTC.shape(1);
    const auto table =
        rope == kNoRope ? identity_rope_table(num_tokens, 1) : input.ropes.at(static_cast<std::size_t>(rope));
    const auto rows = [](const mx::array& table_B1TK) { return mx::flatten(table_B1TK, 0, 2); };
    return host_attention({*plan.host_documents_M2, rows(table.cos_B1TK), rows(table.sin_B1TK), spec.num_heads,
                           spec.num_kv_heads, settings.scale, settings.window},
                          in.q_BTC, in.k_BTC, in.v_BTC);
  }
  const auto turned = [&](const mx::array& x, int heads) {
    const auto split = split_heads(x, heads);
    return rope == kNoRope ? split : apply_rope(input.ropes.at(static_cast<std::size_t>(rope)), split);
  };
  const auto o =
      attention(plan, settings, turned(in.q_BTC, spec.num_heads), turned(in.k_BTC, spec.num_kv_heads),
                split_heads(in.v_BTC, spec.num_kv_heads), layer);
  return mx::flatten(mx::transpose(o, {0, 2, 1, 3}), 2, 3);
}

mx::array attention_mixer(const DecoderSpec& spec, ForwardContext& context, const PassInput& input, int layer,
                          const mx::array& x) {
  const auto name = block_prefix(spec, layer) + spec.names.attention + ".";
  auto queries = project(spec, context, name, x);
  normalize(spec, context, name, queries);
  AttentionSettings settings;
  settings.scale =
      spec.attention_scale > 0.0F ? spec.attention_scale : 1.0F / std::sqrt(static_cast<float>(spec.head_dim));
  settings.window = spec.layers.at(static_cast<std::size_t>(layer)).window;
  settings.softcap = spec.attention_softcap;
  if (spec.sinks) {
    settings.sinks_H = mx::astype(context.params.at(name + "sinks"), x.dtype());
  }
  auto merged = attend(spec, input, settings, layer, queries);
  if (queries.gate_BTC) {
    merged = merged * mx::sigmoid(*queries.gate_BTC);
  }
  return linear(context, name + spec.names.output, merged);
}

// The state in place `slot` that a recurrent layer carries; none at a text's start.
std::optional<mx::array> carried(const PassInput& input, int layer, std::size_t slot) {
  if (input.attention.cache == nullptr) {
    return std::nullopt;
  }
  const auto& state = input.attention.cache->state(layer);
  return slot < state.size() ? std::optional(state[slot]) : std::nullopt;
}

void carry(const PassInput& input, int layer, std::vector<mx::array> state) {
  if (input.attention.cache != nullptr) {
    input.attention.cache->state(layer) = std::move(state);
  }
}

// LFM2's: a convolution between two gates.
mx::array conv_mixer(const DecoderSpec& spec, ForwardContext& context, const PassInput& input, int layer,
                     const mx::array& x) {
  const auto name = block_prefix(spec, layer) + "conv.";
  const auto parts = mx::split(linear(context, name + "in_proj", x), 3, -1);
  const auto* bias = context.params.find(name + "conv.bias");
  const auto mixed = short_conv(parts[0] * parts[2], context.params.at(name + "conv.weight"),
                                bias != nullptr ? std::optional(*bias) : std::nullopt, input.positions_BT,
                                carried(input, layer, 0));
  carry(input, layer, {mixed.state});
  return linear(context, name + "out_proj", parts[1] * mixed.y_BTC);
}

// Qwen3.5's linear attention.
mx::array delta_mixer(const DecoderSpec& spec, ForwardContext& context, const PassInput& input, int layer,
                      const mx::array& x) {
  const auto& d = spec.delta;
  const auto name = block_prefix(spec, layer) + "linear_attn.";
  const auto qkv = linear(context, name + "in_proj_qkv", x);
  const auto z = linear(context, name + "in_proj_z", x);
  const auto b = mx::astype(linear(context, name + "in_proj_b", x), mx::float32);
  const auto a = mx::astype(linear(context, name + "in_proj_a", x), mx::float32);

  const auto conv = short_conv(qkv, context.params.at(name + "conv1d.weight"), std::nullopt, input.positions_BT,
                               carried(input, layer, 0));
  const auto mixed = conv.y_BTC * mx::sigmoid(conv.y_BTC);
  const int keys = d.num_key_heads * d.key_dim;
  const auto parts = split_at(mixed, {keys, keys, d.num_value_heads * d.value_dim});
  const auto decay_rate = mx::exp(mx::astype(context.params.at(name + "A_log"), mx::float32));
  const auto dt = a + mx::astype(context.params.at(name + "dt_bias"), mx::float32);
  const auto softplus = mx::logaddexp(dt, mx::array(0.0F));
  const auto delta =
      gated_delta({mx::unflatten(parts[0], 2, {d.num_key_heads, d.key_dim}),
                   mx::unflatten(parts[1], 2, {d.num_key_heads, d.key_dim}),
                   mx::unflatten(parts[2], 2, {d.num_value_heads, d.value_dim}), -decay_rate * softplus,
                   mx::sigmoid(b), input.positions_BT, carried(input, layer, 1), !input.recomputed});
  carry(input, layer, {conv.state, delta.state_BHDV});
  const auto gated = gated_rms_norm(delta.out_BTHV, context.params.at(name + "norm.weight"),
                                    mx::unflatten(z, 2, {d.num_value_heads, d.value_dim}), spec.norm_eps);
  return linear(context, name + "out_proj", mx::flatten(mx::astype(gated, x.dtype()), 2, 3));
}

mx::array mixer(const DecoderSpec& spec, ForwardContext& context, const PassInput& input, int layer,
                const mx::array& x) {
  switch (spec.layers.at(static_cast<std::size_t>(layer)).mixer) {
    case Mixer::short_conv:
      return conv_mixer(spec, context, input, layer, x);
    case Mixer::gated_delta:
      return delta_mixer(spec, context, input, layer, x);
    case Mixer::attention:
      break;
  }
  return attention_mixer(spec, context, input, layer, x);
}

mx::array feed_forward(const DecoderSpec& spec, ForwardContext& context, const std::string& name,
                       const mx::array& x) {
  if (spec.fused_gate_up) {
    const auto parts = mx::split(linear(context, name + "gate_up_proj", x), 2, -1);
    return linear(context, name + spec.names.down,
                  glu(spec.activation, parts[0], parts[1], spec.activation_limit));
  }
  const auto gate = linear(context, name + spec.names.gate, x);
  const auto up = linear(context, name + spec.names.up, x);
  return linear(context, name + spec.names.down, glu(spec.activation, gate, up, spec.activation_limit));
}

mx::array expert_layer(ForwardContext& context, const std::string& name, const ExpertOrder& order,
                       const mx::array& x_PI) {
  const auto optional = [&](const char* leaf) {
    const auto* found = context.params.find(name + leaf);
    return found != nullptr ? std::optional(*found) : std::nullopt;
  };
  const auto packed = packed_weight(context.params, name, x_PI.shape(-1));
  const ExpertWeights weights{
      packed ? packed->weight : dense_weight(context.params, name, x_PI.shape(-1), x_PI.dtype()),
      optional(".bias"),
      packed ? std::optional(packed->scales) : std::nullopt,
      packed ? packed->biases : std::nullopt,
      packed ? packed->format : QuantFormat{},
      optional(".lora_a"),
      optional(".lora_b")};
  const auto key = weights.lora_a ? next_dropout_key(context) : std::nullopt;
  return expert_linear(weights, order, x_PI, context.lora.of(name), key);
}

BlockOutput expert_mixture(const DecoderSpec& spec, ForwardContext& context, const PassInput& input, int layer,
                           const mx::array& x) {
  const auto& m = spec.moe;
  const auto name = block_prefix(spec, layer) + m.mlp + ".";
  const auto logits = linear(context, name + m.router, x);
  const auto routes = route(m.routing, logits);
  const auto order = order_experts(routes.experts);
  const auto rows = expert_rows(order, x);
  const auto experts = name + m.experts + ".";
  const auto hidden = glu(spec.activation, expert_layer(context, experts + spec.names.gate, order, rows),
                          expert_layer(context, experts + spec.names.up, order, rows), spec.activation_limit);
  auto y =
      combine_experts(order, expert_layer(context, experts + spec.names.down, order, hidden), routes.weights);
  if (m.shared_intermediate_size > 0) {
    const auto gate = mx::sigmoid(linear(context, name + "shared_expert_gate", x));
    y = y + gate * feed_forward(spec, context, name + "shared_expert.", x);
  }
  return {y, load_balance(logits, routes, input.real_BT)};
}

} // namespace

mx::array norm(const DecoderSpec& spec, const ForwardContext& context, const std::string& name,
               const mx::array& x) {
  const auto& weight = context.params.at(name + ".weight");
  const auto scale = spec.norm_plus_one ? mx::astype(weight, mx::float32) + mx::array(1.0F) : weight;
  return rms_norm(x, mx::astype(scale, x.dtype()), spec.norm_eps);
}

BlockOutput block(const DecoderSpec& spec, ForwardContext& context, const PassInput& input, int layer,
                  const mx::array& x) {
  const auto prefix = block_prefix(spec, layer);
  const auto& names = spec.names;
  const auto normed = [&](const std::string& name, const mx::array& y) {
    return name.empty() ? y : norm(spec, context, prefix + name, y);
  };
  const auto added = [&](const mx::array& stream, const mx::array& y) {
    return spec.residual_scale == 1.0F ? stream + y : stream + y * mx::array(spec.residual_scale, y.dtype());
  };
  context.dropout_site = static_cast<std::uint32_t>(layer) * kSitesPerBlock;

  const auto mixed = mixer(spec, context, input, layer, normed(names.mixer_norm, x));
  const auto h = added(x, normed(names.mixer_post_norm, mixed));

  const auto ffn_in = normed(names.mlp_norm, h);
  const auto ffn = spec.layers.at(static_cast<std::size_t>(layer)).moe
                       ? expert_mixture(spec, context, input, layer, ffn_in)
                       : BlockOutput{feed_forward(spec, context, prefix + names.mlp + ".", ffn_in), {}};
  return {added(h, normed(names.mlp_post_norm, ffn.x_BTE)), ffn.load_balance};
}

} // namespace temper
