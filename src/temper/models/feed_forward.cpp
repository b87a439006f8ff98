#include "temper/models/feed_forward.h"

#include <string>
#include <utility>
#include <vector>

#include "temper/nn/activation.h"
#include "temper/nn/moe.h"

namespace temper {
namespace {

using Arrays = std::vector<mx::array>;

std::vector<std::string> gate_layers(const DecoderSpec& spec, const std::string& name) {
  return spec.fused_gate_up ? std::vector{name + "gate_up_proj"}
                            : std::vector{name + spec.names.gate, name + spec.names.up};
}

// `keep_output`: as linears() has it.
mx::array feed_forward(const DecoderSpec& spec, ForwardContext& context, const std::string& name,
                       const mx::array& x, bool keep_output = false) {
  if (spec.activation == Activation::silu && !spec.fused_gate_up) {
    if (const auto y = swiglu_linears(context, name + spec.names.gate, name + spec.names.up,
                                      name + spec.names.down, x, keep_output)) {
      return *y;
    }
  }
  auto parts = linears(context, gate_layers(spec, name), x, true);
  if (spec.fused_gate_up) {
    parts = mx::split(parts[0], 2, -1);
  }
  const auto hidden = glu(spec.activation, parts[0], parts[1], spec.activation_limit);
  return linears(context, {name + spec.names.down}, hidden, keep_output)[0];
}

ExpertWeights expert_weights(const ForwardContext& context, const std::string& name, const mx::array& x_PI) {
  const auto optional = [&](const char* leaf) {
    const auto* found = context.params.find(name + leaf);
    return found != nullptr ? std::optional(*found) : std::nullopt;
  };
  const auto packed = packed_weight(context.params, name, x_PI.shape(-1));
  return {packed ? packed->weight : dense_weight(context.params, name, x_PI.shape(-1), x_PI.dtype()),
          optional(".bias"),
          packed ? std::optional(packed->scales) : std::nullopt,
          packed ? packed->biases : std::nullopt,
          packed ? packed->format : QuantFormat{},
          optional(".lora_a"),
          optional(".lora_b")};
}

// One linear layer of the experts over x [P, I]; `kept` as for expert_linear().
mx::array expert_layer(ForwardContext& context, const std::string& name, const ExpertWeights& weights,
                       const ExpertOrder& order, const mx::array& x_PI, Kept* kept = nullptr) {
  const auto key = weights.lora_a ? next_dropout_key(context) : std::nullopt;
  return expert_linear(weights, order, x_PI, context.lora.of(name), key, kept);
}

// The experts' sum by their routes' weights, of x's norm. In a part of a block that is recomputed it needs no
// more than gate's and up's products kept.
mx::array experts_output(const DecoderSpec& spec, ForwardContext& context, const std::string& experts,
                         const Routes& routes, const mx::array& x) {
  const auto order = order_experts(routes.experts, context.kept);
  const auto rows = expert_rows(order, x);
  const auto inner = [&](const std::string& name) {
    return expert_layer(context, name, expert_weights(context, name, rows), order, rows, context.kept);
  };
  const auto gate = inner(experts + spec.names.gate);
  const auto up = inner(experts + spec.names.up);
  const auto hidden = glu(spec.activation, gate, up, spec.activation_limit);
  const auto down = experts + spec.names.down;
  auto weights = expert_weights(context, down, hidden);
  if (context.kept == nullptr) {
    return combine_experts(order, expert_layer(context, down, weights, order, hidden), routes.weights);
  }
  const auto bias = std::exchange(weights.bias, std::nullopt);
  const auto weighed = weighed_rows(order, hidden, routes.weights);
  const auto y = sum_choices(order, expert_layer(context, down, weights, order, weighed));
  return bias ? y + weighed_bias(routes, *bias, y.dtype()) : y;
}

} // namespace

HalfBlock dense_ffn(const DecoderSpec& spec, ForwardContext& context, int layer, const mx::array& h) {
  const auto prefix = block_prefix(spec, layer);
  const auto name = prefix + spec.names.mlp + ".";
  const auto run = [&spec, prefix, name](ForwardContext& inner, const Arrays& in) {
    const auto entry = enter(spec, inner, prefix, spec.names.mlp_norm, in[0]);
    return Arrays{feed_forward(spec, inner, name, entry.normed), entry.x};
  };
  auto layers = gate_layers(spec, name);
  layers.push_back(name + spec.names.down);
  const auto out = part_of_block(context, prefix, {layers, {prefix + spec.names.mlp_norm}}, {h}, run);
  return {out[0], out[1]};
}

MixtureOutput expert_ffn(const DecoderSpec& spec, ForwardContext& context, const PassInput& input, int layer,
                         const mx::array& h) {
  const auto& m = spec.moe;
  const auto prefix = block_prefix(spec, layer);
  const auto folder = prefix + m.mlp;
  const auto name = folder + ".";
  const auto shared = name + "shared_expert.";
  const auto run = [&spec, &m, real = input.real_BT, prefix, name, shared](ForwardContext& inner,
                                                                           const Arrays& in) {
    const auto entry = enter(spec, inner, prefix, spec.names.mlp_norm, in[0]);
    const auto& x = entry.normed;
    const auto logits = linears(inner, {name + m.router}, x, true)[0];
    const auto routes = route(m.routing, logits, inner.kept);
    auto y = experts_output(spec, inner, name + m.experts + ".", routes, x);
    if (m.shared_intermediate_size > 0) {
      const auto gate = mx::sigmoid(linears(inner, {name + "shared_expert_gate"}, x, true)[0]);
      y = y + gate * feed_forward(spec, inner, shared, x, true);
    }
    return Arrays{y, entry.x, load_balance(logits, routes, real)};
  };
  PartParameters parameters{{name + m.router}, {prefix + spec.names.mlp_norm, folder}};
  if (m.shared_intermediate_size > 0) {
    auto layers = gate_layers(spec, shared);
    layers.insert(layers.end(), {shared + spec.names.down, name + "shared_expert_gate"});
    parameters.layers.insert(parameters.layers.end(), layers.begin(), layers.end());
  }
  const auto out = part_of_block(context, prefix, parameters, {h}, run);
  return {{out[0], out[1]}, out[2]};
}

} // namespace temper
