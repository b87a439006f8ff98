#include "temper/models/few_rows.h"

#include <string>
#include <utility>
#include <vector>

#include "temper/models/tensors.h"
#include "temper/nn/gpu_decode.h"

namespace temper {
namespace {

bool serves(const ForwardContext& context, const PassInput& input, const mx::array& x) {
  return !context.trained && input.attention.cache != nullptr && gpu::few_rows_serve(x);
}

// Of a row, whose heads may be an axis of their own.
int features_of(const mx::array& x) {
  return static_cast<int>(x.size()) / (x.shape(0) * (x.ndim() == 4 ? 1 : x.shape(1)));
}

bool is_matrix_for(const mx::array& weight, mx::Dtype dtype, int in_features) {
  return weight.ndim() == 2 && weight.dtype() == dtype && weight.shape(1) == in_features;
}

// The linear layer's product of `shape`, if it is over a dense weight without an adapter.
std::optional<gpu::FewRowProduct> frozen_product(const ForwardContext& context, const std::string& name,
                                                 const mx::array& x, const mx::Shape& shape) {
  const auto* weight = context.params.find(name + ".weight");
  if (weight == nullptr || !is_matrix_for(*weight, x.dtype(), features_of(x)) ||
      context.params.find(name + ".lora_a") != nullptr) {
    return std::nullopt;
  }
  const auto* bias = context.params.find(name + ".bias");
  if (bias != nullptr && bias->dtype() != x.dtype()) {
    return std::nullopt;
  }
  return gpu::FewRowProduct{*weight, bias != nullptr ? std::optional(*bias) : std::nullopt, shape};
}

std::optional<gpu::RowNorm> row_norm(const DecoderSpec& spec, const ForwardContext& context,
                                     const std::string& name, const mx::array& x) {
  const auto* weight = context.params.find(name + ".weight");
  if (weight == nullptr || weight->dtype() != x.dtype()) {
    return std::nullopt;
  }
  return gpu::RowNorm{*weight, spec.norm_eps, spec.norm_plus_one};
}

// stream [B, T, E] + scale norm(linear(x)), the norm where it has a name, of x [B, T, I] or [B, H, 1, D].
mx::array added(const DecoderSpec& spec, ForwardContext& context, const std::string& layer,
                const std::string& prefix, const std::string& post_norm, const mx::array& stream,
                const mx::array& x) {
  const auto product = frozen_product(context, layer, x, stream.shape());
  if (product && post_norm.empty()) {
    return gpu::few_row_sum(x, product->weight_OI, product->bias_O, stream, spec.residual_scale);
  }
  const auto y = product ? gpu::few_row_products(x, std::nullopt, {*product})[0]
                         : linear(context, layer, mx::reshape(x, {x.shape(0), -1, features_of(x)}));
  if (post_norm.empty()) {
    return stream + y * mx::array(spec.residual_scale, y.dtype());
  }
  const auto of_y = row_norm(spec, context, prefix + post_norm, y);
  if (of_y && gpu::norm_added_serves(y)) {
    return gpu::norm_added(stream, y, *of_y, spec.residual_scale);
  }
  return stream + norm(spec, context, prefix + post_norm, y) * mx::array(spec.residual_scale, y.dtype());
}

struct Heads {
  mx::array q_BH1D;
  mx::array k_BG1D;
  mx::array v_BG1D;
};

// Queries, keys and values of the layer, turned.
std::optional<Heads> make_heads(const DecoderSpec& spec, const ForwardContext& context, const PassInput& input,
                                int layer, const mx::array& x) {
  const auto prefix = block_prefix(spec, layer);
  const auto name = prefix + spec.names.attention + ".";
  const int rows = x.shape(0);
  const bool norms_heads = spec.qk_norm == QkNorm::head;
  std::optional<gpu::HeadAngles> angles;
  if (const int rope = spec.layers.at(static_cast<std::size_t>(layer)).rope; rope != kNoRope) {
    const auto& table = input.ropes.at(static_cast<std::size_t>(rope));
    angles = gpu::HeadAngles{table.cos_B1TK, table.sin_B1TK, spec.head_dim};
  }
  const mx::Shape of_queries{rows, spec.num_heads, 1, spec.head_dim};
  const mx::Shape of_keys{rows, spec.num_kv_heads, 1, spec.head_dim};
  auto q = frozen_product(context, name + "q_proj", x, of_queries);
  auto k = frozen_product(context, name + "k_proj", x, of_keys);
  auto v = frozen_product(context, name + "v_proj", x, of_keys);
  if (!q || !k || !v) {
    return std::nullopt;
  }
  std::optional<gpu::RowNorm> before;
  if (!spec.names.mixer_norm.empty()) {
    before = row_norm(spec, context, prefix + spec.names.mixer_norm, x);
    if (!before) {
      return std::nullopt;
    }
  }
  if (!norms_heads) {
    q->turned = k->turned = angles.has_value();
    const auto out = gpu::few_row_products(x, before, {*q, *k, *v}, angles);
    return Heads{out[0], out[1], out[2]};
  }
  const auto of_q = row_norm(spec, context, name + spec.names.q_norm, x);
  const auto of_k = row_norm(spec, context, name + spec.names.k_norm, x);
  if (!of_q || !of_k) {
    return std::nullopt;
  }
  const auto out = gpu::few_row_products(x, before, {*q, *k, *v});
  const auto [turned_q, turned_k] = gpu::normed_heads(out[0], out[1], *of_q, *of_k, angles);
  return Heads{turned_q, turned_k, out[2]};
}

} // namespace

std::optional<mx::array> few_rows_mixer(const DecoderSpec& spec, ForwardContext& context,
                                        const PassInput& input, int layer, const mx::array& x) {
  if (!serves(context, input, x) || x.shape(1) != 1 || spec.fused_qkv || spec.gated_attention ||
      spec.qk_norm == QkNorm::full || spec.head_dim % 8 != 0 ||
      spec.layers.at(static_cast<std::size_t>(layer)).mixer != Mixer::attention) {
    return std::nullopt;
  }
  const auto heads = make_heads(spec, context, input, layer, x);
  if (!heads) {
    return std::nullopt;
  }
  const auto o = attention(input.attention, attention_settings(spec, context, layer, x.dtype()), heads->q_BH1D,
                           heads->k_BG1D, heads->v_BG1D, layer);
  const auto prefix = block_prefix(spec, layer);
  return added(spec, context, prefix + spec.names.attention + "." + spec.names.output, prefix,
               spec.names.mixer_post_norm, x, o);
}

std::optional<mx::array> few_rows_ffn(const DecoderSpec& spec, ForwardContext& context, const PassInput& input,
                                      int layer, const mx::array& h) {
  if (!serves(context, input, h) || spec.fused_gate_up || spec.names.mlp_norm.empty() ||
      spec.layers.at(static_cast<std::size_t>(layer)).moe) {
    return std::nullopt;
  }
  const auto prefix = block_prefix(spec, layer);
  const auto name = prefix + spec.names.mlp + ".";
  const auto gate = frozen_product(context, name + spec.names.gate, h, {});
  const auto up = frozen_product(context, name + spec.names.up, h, {});
  const auto before = row_norm(spec, context, prefix + spec.names.mlp_norm, h);
  if (!gate || !up || !before || gate->bias_O || up->bias_O) {
    return std::nullopt;
  }
  const auto gated =
      gpu::few_row_glu(h, *before, gate->weight_OI, up->weight_OI, spec.activation, spec.activation_limit);
  return added(spec, context, name + spec.names.down, prefix, spec.names.mlp_post_norm, h, gated);
}

std::optional<mx::array> few_rows_product(const mx::array& hidden, const mx::array& weight_OE) {
  if (!gpu::few_rows_serve(hidden) || !is_matrix_for(weight_OE, hidden.dtype(), hidden.shape(-1))) {
    return std::nullopt;
  }
  auto shape = hidden.shape();
  shape.back() = weight_OE.shape(0);
  return gpu::few_row_products(hidden, std::nullopt, {{weight_OE, std::nullopt, shape}})[0];
}

} // namespace temper
