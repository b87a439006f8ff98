#include "temper/nn/linear.h"

#include "temper/base/error.h"
#include "temper/nn/random.h"

namespace temper {

mx::array linear(ForwardContext& context, const std::string& name, const mx::array& x) {
  const auto& weight_OI = context.params.at(name + ".weight");
  if (weight_OI.ndim() != 2 || weight_OI.shape(1) != x.shape(-1)) {
    throw ModelError("tensor " + name + ".weight has shape " + shape_text(weight_OI.shape()) +
                     " but its input has " + std::to_string(x.shape(-1)) + " features");
  }
  const auto weight_IO = mx::transpose(mx::astype(weight_OI, x.dtype()));
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
