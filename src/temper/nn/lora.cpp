#include "temper/nn/lora.h"

#include <cmath>

#include "temper/base/error.h"
#include "temper/nn/random.h"

namespace temper {

mx::array apply_lora(const LoraConfig& config, const LoraPair& pair, const mx::array& x, const mx::array& y,
                     const std::optional<mx::array>& dropout_key) {
  const auto& [a_IR, b_RO] = pair;
  if (a_IR.ndim() != 2 || b_RO.ndim() != 2 || a_IR.shape(0) != x.shape(-1) || a_IR.shape(1) != b_RO.shape(0) ||
      b_RO.shape(1) != y.shape(-1)) {
    throw ModelError("LoRA factors " + shape_text(a_IR.shape()) + " and " + shape_text(b_RO.shape()) +
                     " do not fit a layer from " + std::to_string(x.shape(-1)) + " to " +
                     std::to_string(y.shape(-1)) + " features");
  }
  const auto dropped = dropout_key && config.dropout > 0 ? dropout(x, config.dropout, *dropout_key) : x;
  // The scale rides on B, the smallest operand.
  const auto scaled_b = mx::astype(b_RO * config.scale, x.dtype());
  const auto update = mx::matmul(mx::matmul(dropped, mx::astype(a_IR, x.dtype())), scaled_b);
  return y + mx::astype(update, y.dtype());
}

Params init_lora(const LoraConfig& config, const std::vector<std::pair<std::string, mx::Shape>>& layers,
                 std::uint64_t seed) {
  Params params;
  for (const auto& [name, shape] : layers) {
    const int out_features = shape.at(0);
    const int in_features = shape.at(1);
    const float bound = 1.0F / std::sqrt(static_cast<float>(in_features));
    params.insert_or_assign(name + ".lora_a", mx::random::uniform(-bound, bound, {in_features, config.rank},
                                                                  mx::float32, named_key(seed, name)));
    params.insert_or_assign(name + ".lora_b", mx::zeros({config.rank, out_features}, mx::float32));
  }
  mx::eval(values(params));
  return params;
}

mx::array merge_lora(const LoraConfig& config, const LoraPair& pair, const mx::array& weight) {
  const auto update_IO = mx::matmul(mx::astype(pair.a, mx::float32), mx::astype(pair.b, mx::float32));
  const auto merged = mx::astype(weight, mx::float32) + config.scale * mx::transpose(update_IO);
  return mx::astype(merged, weight.dtype());
}

} // namespace temper
