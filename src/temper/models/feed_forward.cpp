#include "temper/models/feed_forward.h"

#include <utility>

#include "temper/nn/activation.h"
#include "temper/nn/moe.h"

namespace temper {
namespace {

using Arrays = std::vector<mx::array>;

std::vector<std::string> gate_layers(const DecoderSpec& spec, const std::string& name) {
  return spec.fused_gate_up ? std::vector{name + "gate_up_proj"}
                            : std::vector{name + spec.names.gate, name + spec.names.up};
}

mx::array feed_forward(const DecoderSpec& spec, ForwardContext& context, const std::string& name,
                       const mx::array& x) {
  if (spec.activation == Activation::silu && !spec.fused_gate_up) {
    if (const auto y =
            swiglu_linears(context, name + spec.names.gate, name + spec.names.up, name + spec.names.down, x)) {
      return *y;
    }
  }
  auto parts = linears(context, gate_layers(spec, name), x, true);
  if (spec.fused_gate_up) {
    parts = mx::split(parts[0], 2, -1);
  }
  return linears(context, {name + spec.names.down},
                 glu(spec.activation, parts[0], parts[1], spec.activation_limit))[0];
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
  const auto entry = enter(spec, context, block_prefix(spec, layer), spec.names.mlp_norm, h);
  const auto& x = entry.normed;
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
  return {{y, entry.x}, load_balance(logits, routes, input.real_BT)};
}

} // namespace temper
