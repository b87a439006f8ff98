#include "temper/models/mixers.h"

#include <optional>
#include <tuple>
#include <utility>

#include "temper/nn/fused.h"
#include "temper/nn/gated_delta.h"
#include "temper/nn/host_op.h"
#include "temper/nn/short_conv.h"

namespace temper {
namespace {

using Arrays = std::vector<mx::array>;

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
  bool rotated = false;              // by their tokens' angles, queries and keys
  mx::array x_BTE = mx::array(0.0F); // the residual stream that they come from
};

std::vector<std::string> query_layers(const DecoderSpec& spec, const std::string& name) {
  return spec.fused_qkv ? std::vector{name + "qkv_proj"}
                        : std::vector{name + "q_proj", name + "k_proj", name + "v_proj"};
}

Queries project(const DecoderSpec& spec, ForwardContext& context, const std::string& name, const mx::array& x) {
  // A norm of queries and keys reads them in its backward pass.
  const auto y = linears(context, query_layers(spec, name), x, spec.qk_norm != QkNorm::none);
  if (spec.fused_qkv) {
    const int kv = spec.num_kv_heads * spec.head_dim;
    const auto parts = split_at(y[0], {spec.num_heads * spec.head_dim, kv, kv});
    return {parts[0], parts[1], parts[2], std::nullopt, false};
  }
  const auto& [q, k, v] = std::tie(y[0], y[1], y[2]);
  if (!spec.gated_attention) {
    return {q, k, v, std::nullopt, false};
  }
  const auto parts = mx::split(mx::unflatten(q, 2, {spec.num_heads, 2 * spec.head_dim}), 2, -1);
  return {mx::flatten(parts[0], 2, 3), k, v, mx::flatten(parts[1], 2, 3), false};
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

const RopeTable* rope_of(const DecoderSpec& spec, const PassInput& input, int layer) {
  const int rope = spec.layers.at(static_cast<std::size_t>(layer)).rope;
  return rope == kNoRope ? nullptr : &input.ropes.at(static_cast<std::size_t>(rope));
}

// Whether queries and keys are turned before their heads are split, by a kernel that reads them as they lie.
bool rotates_rows(const DecoderSpec& spec, const ForwardContext& context, const RopeTable* table,
                  const mx::array& q_BTC) {
  return context.trained && table != nullptr && rope_rows_serves(*table, q_BTC, spec.num_heads);
}

mx::array merge_heads(const mx::array& x_BHTD) {
  return mx::flatten(mx::transpose(x_BHTD, {0, 2, 1, 3}), 2, 3);
}

// Turned by the table, if there is one, with heads left side by side.
mx::array turned_rows(const RopeTable* table, const mx::array& x_BTC, int heads) {
  if (table == nullptr) {
    return x_BTC;
  }
  return rope_rows_serves(*table, x_BTC, heads) ? rope_rows(*table, x_BTC, heads)
                                                : merge_heads(apply_rope(*table, split_heads(x_BTC, heads)));
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
  const auto* table = in.rotated ? nullptr : rope_of(spec, input, layer);
  if (attends_in_place(plan, settings, in.q_BTC, spec.num_heads)) {
    return attention_in_place(plan, settings, spec.num_heads, spec.num_kv_heads,
                              turned_rows(table, in.q_BTC, spec.num_heads),
                              turned_rows(table, in.k_BTC, spec.num_kv_heads), in.v_BTC);
  }
  const auto turned = [&](const mx::array& x, int heads) {
    const auto split = split_heads(x, heads);
    return table == nullptr ? split : apply_rope(*table, split);
  };
  const auto o =
      attention(plan, settings, turned(in.q_BTC, spec.num_heads), turned(in.k_BTC, spec.num_kv_heads),
                split_heads(in.v_BTC, spec.num_kv_heads), layer);
  return merge_heads(o);
}

// What the attention of a layer is over, from the block's input.
Queries make_queries(const DecoderSpec& spec, ForwardContext& context, const PassInput& input, int layer,
                     const mx::array& x) {
  const auto prefix = block_prefix(spec, layer);
  const auto name = prefix + spec.names.attention + ".";
  const auto run = [&spec, input, layer, prefix, name](ForwardContext& inner, const Arrays& in) {
    const auto entry = enter(spec, inner, prefix, spec.names.mixer_norm, in[0]);
    auto queries = project(spec, inner, name, entry.normed);
    normalize(spec, inner, name, queries);
    const auto* table = rope_of(spec, input, layer);
    if (rotates_rows(spec, inner, table, queries.q_BTC)) {
      queries.q_BTC = rope_rows(*table, queries.q_BTC, spec.num_heads);
      queries.k_BTC = rope_rows(*table, queries.k_BTC, spec.num_kv_heads);
    }
    Arrays arrays{entry.x, queries.q_BTC, queries.k_BTC, queries.v_BTC};
    if (queries.gate_BTC) {
      arrays.push_back(*queries.gate_BTC);
    }
    return arrays;
  };
  const PartParameters parameters{
      query_layers(spec, name),
      {prefix + spec.names.mixer_norm, name + spec.names.q_norm, name + spec.names.k_norm}};
  const auto out = part_of_block(context, prefix, parameters, {x}, run);
  return {out[1],
          out[2],
          out[3],
          out.size() > 4 ? std::optional(out[4]) : std::nullopt,
          rotates_rows(spec, context, rope_of(spec, input, layer), out[1]),
          out[0]};
}

HalfBlock attention_mixer(const DecoderSpec& spec, ForwardContext& context, const PassInput& input, int layer,
                          const mx::array& x) {
  const auto name = block_prefix(spec, layer) + spec.names.attention + ".";
  const auto queries = make_queries(spec, context, input, layer, x);
  const auto settings = attention_settings(spec, context, layer, x.dtype());
  const auto merged = attend(spec, input, settings, layer, queries);
  const auto output = name + spec.names.output;
  if (!queries.gate_BTC) {
    return {linears(context, {output}, merged)[0], queries.x_BTE};
  }
  const auto run = [output](ForwardContext& inner, const Arrays& in) {
    return linears(inner, {output}, in[0] * mx::sigmoid(in[1]));
  };
  const auto y =
      part_of_block(context, block_prefix(spec, layer), {{output}, {}}, {merged, *queries.gate_BTC}, run);
  return {y[0], queries.x_BTE};
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
HalfBlock conv_mixer(const DecoderSpec& spec, ForwardContext& context, const PassInput& input, int layer,
                     const mx::array& x) {
  const auto prefix = block_prefix(spec, layer);
  const auto name = prefix + "conv.";
  const auto run = [&spec, input, layer, prefix, name](ForwardContext& inner, const Arrays& in) {
    const auto entry = enter(spec, inner, prefix, spec.names.mixer_norm, in[0]);
    const auto parts = mx::split(linears(inner, {name + "in_proj"}, entry.normed, true)[0], 3, -1);
    const auto* bias = inner.params.find(name + "conv.bias");
    const auto mixed = short_conv(parts[0] * parts[2], inner.params.at(name + "conv.weight"),
                                  bias != nullptr ? std::optional(*bias) : std::nullopt, input.positions_BT,
                                  carried(input, layer, 0));
    carry(input, layer, {mixed.state});
    return Arrays{linears(inner, {name + "out_proj"}, parts[1] * mixed.y_BTC)[0], entry.x};
  };
  const PartParameters parameters{{name + "in_proj", name + "out_proj"},
                                  {prefix + spec.names.mixer_norm, name + "conv"}};
  const auto out = part_of_block(context, prefix, parameters, {x}, run);
  return {out[0], out[1]};
}

// The gated delta rule over what the input projections give, its gate's too: [B, T, H V] before the output's.
mx::array delta_rule(const DecoderSpec& spec, const ForwardContext& context, const PassInput& input, int layer,
                     const Arrays& projected) {
  const auto& d = spec.delta;
  const auto& params = context.params;
  const auto name = block_prefix(spec, layer) + "linear_attn.";
  const auto& [qkv, z, b, a] = std::tie(projected[0], projected[1], projected[2], projected[3]);
  const auto conv = short_conv(qkv, params.at(name + "conv1d.weight"), std::nullopt, input.positions_BT,
                               carried(input, layer, 0));
  const auto mixed = conv.y_BTC * mx::sigmoid(conv.y_BTC);
  const int keys = d.num_key_heads * d.key_dim;
  const auto parts = split_at(mixed, {keys, keys, d.num_value_heads * d.value_dim});
  const auto decay_rate = mx::exp(mx::astype(params.at(name + "A_log"), mx::float32));
  const auto dt = mx::astype(a, mx::float32) + mx::astype(params.at(name + "dt_bias"), mx::float32);
  const auto softplus = mx::logaddexp(dt, mx::array(0.0F));
  const bool is_recomputed = input.recomputed || context.kept != nullptr;
  const auto delta = gated_delta({mx::unflatten(parts[0], 2, {d.num_key_heads, d.key_dim}),
                                  mx::unflatten(parts[1], 2, {d.num_key_heads, d.key_dim}),
                                  mx::unflatten(parts[2], 2, {d.num_value_heads, d.value_dim}),
                                  -decay_rate * softplus, mx::sigmoid(mx::astype(b, mx::float32)),
                                  input.positions_BT, carried(input, layer, 1), !is_recomputed});
  carry(input, layer, {conv.state, delta.state_BHDV});
  const auto gated = gated_rms_norm(delta.out_BTHV, params.at(name + "norm.weight"),
                                    mx::unflatten(z, 2, {d.num_value_heads, d.value_dim}), spec.norm_eps);
  return mx::flatten(mx::astype(gated, qkv.dtype()), 2, 3);
}

// Qwen3.5's linear attention.
HalfBlock delta_mixer(const DecoderSpec& spec, ForwardContext& context, const PassInput& input, int layer,
                      const mx::array& x) {
  const auto prefix = block_prefix(spec, layer);
  const auto folder = prefix + "linear_attn";
  const auto name = folder + ".";
  const std::vector<std::string> inputs{name + "in_proj_qkv", name + "in_proj_z", name + "in_proj_b",
                                        name + "in_proj_a"};
  const auto run = [&spec, input, layer, prefix, name, inputs](ForwardContext& inner, const Arrays& in) {
    const auto entry = enter(spec, inner, prefix, spec.names.mixer_norm, in[0]);
    const auto projected = linears(inner, inputs, entry.normed, true);
    const auto y = delta_rule(spec, inner, input, layer, projected);
    return Arrays{linears(inner, {name + "out_proj"}, y)[0], entry.x};
  };
  PartParameters parameters{inputs, {prefix + spec.names.mixer_norm, folder}};
  parameters.layers.push_back(name + "out_proj");
  const auto out = part_of_block(context, prefix, parameters, {x}, run);
  return {out[0], out[1]};
}

} // namespace

HalfBlock mixer(const DecoderSpec& spec, ForwardContext& context, const PassInput& input, int layer,
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

} // namespace temper
