#include "temper/nn/linear.h"

#include <algorithm>

#include "temper/base/error.h"
#include "temper/nn/adapted_linear.h"
#include "temper/nn/gpu_kernels.h"
#include "temper/nn/random.h"

namespace temper {

namespace {

// Rows of the embedding, unadapted.
mx::array embedding_rows(const ParamView& params, const std::string& name, const mx::array& tokens,
                         int features, mx::Dtype dtype) {
  if (auto packed = packed_weight(params, name, features)) {
    packed->weight = mx::take(packed->weight, tokens, 0);
    packed->scales = mx::take(packed->scales, tokens, 0);
    if (packed->biases) {
      packed->biases = mx::take(*packed->biases, tokens, 0);
    }
    return gpu::dequantize(*packed, dtype);
  }
  return mx::astype(mx::take(params.at(name + ".weight"), tokens, 0), dtype);
}

// Draws a key where the adapter drops of its input.
AdaptedLinear adapted_layer(ForwardContext& context, const std::string& name, int in_features,
                            mx::Dtype dtype) {
  const auto& params = context.params;
  AdaptedLinear layer;
  layer.weight.packed = packed_weight(params, name, in_features);
  if (!layer.weight.packed) {
    layer.weight.dense = dense_weight(params, name, in_features, dtype);
    layer.weight.trains_matrix = context.trained->contains(name + ".weight");
  }
  if (const auto* bias = params.find(name + ".bias")) {
    layer.weight.bias = *bias;
    layer.weight.trains_bias = context.trained->contains(name + ".bias");
  }
  if (const auto* a = params.find(name + ".lora_a")) {
    const auto lora = context.lora.of(name);
    layer.lora = LoraPair{*a, params.at(name + ".lora_b")};
    layer.scale = lora.scale;
    check_lora_shapes(*layer.lora, in_features, params.at(name + ".weight").shape(0));
    if (const auto key = next_dropout_key(context)) {
      layer.dropout = lora.dropout;
      layer.dropout_key = kept_or(context.kept, [&] { return *key; });
    }
    if (params.find(name + ".m") != nullptr) {
      layer.magnitude_O =
          mx::astype(dora_scale(params, name, *layer.lora, layer.scale, dtype, context.kept), dtype);
    }
  }
  return layer;
}

// Whether adapted_swiglu_layers() may serve the layer: frozen, adapted, neither dropout nor magnitude.
bool is_plainly_adapted(const ForwardContext& context, const std::string& name) {
  const auto& params = context.params;
  return params.find(name + ".lora_a") != nullptr && params.find(name + ".m") == nullptr &&
         params.find(name + ".bias") == nullptr && !context.trained->contains(name + ".weight") &&
         !(context.dropout_key && context.lora.dropout > 0);
}

} // namespace

std::optional<PackedWeight> packed_weight(const ParamView& params, const std::string& name, int in_features) {
  const auto& weight = params.at(name + ".weight");
  const auto* scales = params.find(name + ".scales");
  // Trained weights are dense, whatever they shadow.
  if (scales == nullptr || weight.dtype() != mx::uint32) {
    return std::nullopt;
  }
  const auto* biases = params.find(name + ".biases");
  return PackedWeight{weight, *scales, biases != nullptr ? std::optional(*biases) : std::nullopt,
                      infer_quant_format(weight, *scales, biases != nullptr, in_features, name)};
}

mx::array dense_weight(const ParamView& params, const std::string& name, int in_features, mx::Dtype dtype) {
  if (const auto packed = packed_weight(params, name, in_features)) {
    return gpu::dequantize(*packed, dtype);
  }
  const auto& weight = params.at(name + ".weight");
  if (weight.ndim() < 2 || weight.shape(-1) != in_features) {
    throw ModelError("tensor " + name + ".weight has shape " + shape_text(weight.shape()) +
                     " but its input has " + std::to_string(in_features) + " features");
  }
  return mx::astype(weight, dtype);
}

mx::array weight_product(const ParamView& params, const std::string& name, const mx::array& x,
                         const mx::array* bias) {
  if (const auto packed = packed_weight(params, name, x.shape(-1))) {
    const auto y = packed_matmul(x, *packed);
    return bias != nullptr ? y + mx::astype(*bias, x.dtype()) : y;
  }
  const auto weight_IO = mx::transpose(dense_weight(params, name, x.shape(-1), x.dtype()));
  return bias != nullptr ? mx::addmm(mx::astype(*bias, x.dtype()), x, weight_IO) : mx::matmul(x, weight_IO);
}

std::optional<mx::array> next_dropout_key(ForwardContext& context) {
  if (!context.dropout_key || context.lora.dropout <= 0) {
    return std::nullopt;
  }
  return fold_in(*context.dropout_key, context.dropout_site++);
}

mx::array dora_scale(const ParamView& params, const std::string& name, const LoraPair& pair, float scale,
                     mx::Dtype dtype, Kept* kept) {
  if (const auto* fixed = params.find(name + ".dora_scale")) {
    return *fixed;
  }
  const auto adapted_norms = [&] {
    const auto a_RI = mx::transpose(mx::astype(pair.a, dtype));
    const auto* known = params.find(name + ".weight_norm");
    const auto norms_O =
        known != nullptr ? *known : row_norms(dense_weight(params, name, a_RI.shape(1), dtype));
    const auto wa_RO = weight_product(params, name, mx::stop_gradient(a_RI));
    return adapted_row_norms(norms_O, wa_RO, pair, scale);
  };
  return mx::astype(params.at(name + ".m"), mx::float32) / kept_or(kept, adapted_norms);
}

mx::array linear(ForwardContext& context, const std::string& name, const mx::array& x) {
  const auto& params = context.params;
  const auto* bias = params.find(name + ".bias");
  const auto* a = params.find(name + ".lora_a");
  if (a == nullptr) {
    return weight_product(params, name, x, bias);
  }
  const auto lora = context.lora.of(name);
  const LoraPair pair{*a, params.at(name + ".lora_b")};
  const auto key = next_dropout_key(context);
  if (params.find(name + ".m") == nullptr) {
    return apply_lora(lora, pair, x, weight_product(params, name, x, bias), key);
  }
  const auto scale_O = mx::astype(dora_scale(params, name, pair, lora.scale, x.dtype()), x.dtype());
  const auto y = apply_lora(lora, pair, x, weight_product(params, name, x), key) * scale_O;
  return bias != nullptr ? y + mx::astype(*bias, x.dtype()) : y;
}

bool has_lean_gradient(const ForwardContext& context, const std::string& name, std::size_t num_rows) {
  const auto& params = context.params;
  const bool is_packed =
      params.find(name + ".scales") != nullptr && params.at(name + ".weight").dtype() == mx::uint32;
  return context.trained && (!is_packed || unpacks_for(num_rows));
}

std::vector<mx::array> linears(ForwardContext& context, const std::vector<std::string>& names,
                               const mx::array& x, bool keep_outputs) {
  const auto num_rows = x.size() / static_cast<std::size_t>(x.shape(-1));
  const auto is_lean = [&](const auto& name) { return has_lean_gradient(context, name, num_rows); };
  if (!std::all_of(names.begin(), names.end(), is_lean)) {
    std::vector<mx::array> y;
    y.reserve(names.size());
    for (const auto& name : names) {
      y.push_back(linear(context, name, x));
    }
    return y;
  }
  std::vector<AdaptedLinear> layers;
  layers.reserve(names.size());
  for (const auto& name : names) {
    layers.push_back(adapted_layer(context, name, x.shape(-1), x.dtype()));
  }
  return adapted_linears(layers, x, context.kept, keep_outputs);
}

std::optional<mx::array> swiglu_linears(ForwardContext& context, const std::string& gate, const std::string& up,
                                        const std::string& down, const mx::array& x, bool keep_output) {
  const auto num_rows = x.size() / static_cast<std::size_t>(x.shape(-1));
  for (const auto& name : {gate, up, down}) {
    if (!has_lean_gradient(context, name, num_rows) || !is_plainly_adapted(context, name)) {
      return std::nullopt;
    }
  }
  const auto gate_layer = adapted_layer(context, gate, x.shape(-1), x.dtype());
  const auto up_layer = adapted_layer(context, up, x.shape(-1), x.dtype());
  const auto down_layer = adapted_layer(context, down, gate_layer.lora->b.shape(1), x.dtype());
  if (!adapted_swiglu_serves(gate_layer, up_layer, down_layer, x)) {
    return std::nullopt;
  }
  return adapted_swiglu_layers(gate_layer, up_layer, down_layer, x, context.kept, keep_output);
}

mx::array embed(ForwardContext& context, const std::string& name, const mx::array& tokens, int features,
                mx::Dtype dtype) {
  const auto& params = context.params;
  auto rows = embedding_rows(params, name, tokens, features, dtype);
  const auto* a_VR = params.find(name + ".lora_a");
  if (a_VR == nullptr) {
    return rows;
  }
  const auto lora = context.lora.of(name);
  const auto b_RE = mx::astype(params.at(name + ".lora_b") * lora.scale, dtype);
  const auto update = mx::matmul(mx::astype(mx::take(*a_VR, tokens, 0), dtype), b_RE);
  const auto key = next_dropout_key(context);
  auto y = rows + (key ? dropout(update, lora.dropout, *key) : update);
  const auto* m_V = params.find(name + ".m");
  if (m_V == nullptr) {
    return y;
  }
  // The tokens' rows are all here: their norms need no detour.
  const auto norms = mx::stop_gradient(mx::maximum(row_norms(rows + update), mx::array(kSmallestNorm)));
  const auto factors = mx::astype(mx::take(*m_V, tokens, 0), mx::float32) / norms;
  return y * mx::astype(mx::expand_dims(factors, -1), dtype);
}

} // namespace temper
