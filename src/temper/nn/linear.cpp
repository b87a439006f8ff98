#include "temper/nn/linear.h"

#include "temper/base/error.h"
#include "temper/nn/random.h"

namespace temper {

namespace {

// x W^T + bias: the layer without its adapter.
mx::array base_linear(const ParamView& params, const std::string& name, const mx::array& x) {
  const auto* bias = params.find(name + ".bias");
  if (const auto packed = packed_weight(params, name, x.shape(-1))) {
    const auto y = packed_matmul(x, *packed);
    return bias != nullptr ? y + mx::astype(*bias, x.dtype()) : y;
  }
  const auto weight_IO = mx::transpose(dense_weight(params, name, x.shape(-1), x.dtype()));
  return bias != nullptr ? mx::addmm(mx::astype(*bias, x.dtype()), x, weight_IO) : mx::matmul(x, weight_IO);
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
    return dequantize(*packed, dtype);
  }
  const auto& weight = params.at(name + ".weight");
  if (weight.ndim() < 2 || weight.shape(-1) != in_features) {
    throw ModelError("tensor " + name + ".weight has shape " + shape_text(weight.shape()) +
                     " but its input has " + std::to_string(in_features) + " features");
  }
  return mx::astype(weight, dtype);
}

mx::array embed(ForwardContext& context, const std::string& name, const mx::array& tokens, int features,
                mx::Dtype dtype) {
  if (auto packed = packed_weight(context.params, name, features)) {
    packed->weight = mx::take(packed->weight, tokens, 0);
    packed->scales = mx::take(packed->scales, tokens, 0);
    if (packed->biases) {
      packed->biases = mx::take(*packed->biases, tokens, 0);
    }
    return dequantize(*packed, dtype);
  }
  return mx::astype(mx::take(context.params.at(name + ".weight"), tokens, 0), dtype);
}

mx::array linear(ForwardContext& context, const std::string& name, const mx::array& x) {
  const auto y = base_linear(context.params, name, x);
  const auto* a = context.params.find(name + ".lora_a");
  if (a == nullptr) {
    return y;
  }
  std::optional<mx::array> key;
  if (context.dropout_key && context.lora.dropout > 0) {
    key = fold_in(*context.dropout_key, context.dropout_site++);
  }
  return apply_lora(context.lora, {*a, context.params.at(name + ".lora_b")}, x, y, key);
}

} // namespace temper
