#include "temper/nn/linear.h"

#include "temper/base/error.h"
#include "temper/nn/random.h"

namespace temper {

mx::array dense_weight(const ParamView& params, const std::string& name, int in_features, mx::Dtype dtype) {
  const auto& weight = params.at(name + ".weight");
  if (weight.ndim() < 2 || weight.shape(-1) != in_features) {
    throw ModelError("tensor " + name + ".weight has shape " + shape_text(weight.shape()) +
                     " but its input has " + std::to_string(in_features) + " features");
  }
  return mx::astype(weight, dtype);
}

mx::array embed(ForwardContext& context, const std::string& name, const mx::array& tokens, mx::Dtype dtype) {
  return mx::astype(mx::take(context.params.at(name + ".weight"), tokens, 0), dtype);
}

mx::array linear(ForwardContext& context, const std::string& name, const mx::array& x) {
  const auto weight_IO = mx::transpose(dense_weight(context.params, name, x.shape(-1), x.dtype()));
  const auto* bias = context.params.find(name + ".bias");
  auto y = bias != nullptr ? mx::addmm(mx::astype(*bias, x.dtype()), x, weight_IO) : mx::matmul(x, weight_IO);

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
