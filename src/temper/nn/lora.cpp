#include "temper/nn/lora.h"

#include <cmath>

#include "temper/base/error.h"
#include "temper/nn/random.h"

namespace temper {
namespace {

// What the rounding of |W_o|^2 in fp32 leaves of an adapted row's square is noise below this share of it.
constexpr float kSquareNoise = 1e-7F;

} // namespace

LoraConfig LoraConfig::of(const std::string& layer) const {
  const auto it = layers.find(layer);
  return it == layers.end() ? LoraConfig{rank, scale, dropout, dora}
                            : LoraConfig{it->second.rank, it->second.scale, dropout, dora};
}

LoraPair pair_of(const mx::array& a, const mx::array& b, bool embedding) {
  return embedding ? LoraPair{mx::transpose(b), mx::transpose(a)} : LoraPair{a, b};
}

void check_lora_shapes(const LoraPair& pair, int in_features, int out_features) {
  const auto& [a_IR, b_RO] = pair;
  if (a_IR.ndim() != 2 || b_RO.ndim() != 2 || a_IR.shape(0) != in_features || a_IR.shape(1) != b_RO.shape(0) ||
      b_RO.shape(1) != out_features) {
    throw ModelError("LoRA factors " + shape_text(a_IR.shape()) + " and " + shape_text(b_RO.shape()) +
                     " do not fit a layer from " + std::to_string(in_features) + " to " +
                     std::to_string(out_features) + " features");
  }
}

mx::array apply_lora(const LoraConfig& config, const LoraPair& pair, const mx::array& x, const mx::array& y,
                     const std::optional<mx::array>& dropout_key) {
  const auto& [a_IR, b_RO] = pair;
  check_lora_shapes(pair, x.shape(-1), y.shape(-1));
  const auto dropped = dropout_key && config.dropout > 0 ? dropout(x, config.dropout, *dropout_key) : x;
  // The scale rides on B, the smallest operand.
  const auto scaled_b = mx::astype(b_RO * config.scale, x.dtype());
  const auto update = mx::matmul(mx::matmul(dropped, mx::astype(a_IR, x.dtype())), scaled_b);
  return y + mx::astype(update, y.dtype());
}

mx::array row_norms(const mx::array& weight) {
  return mx::sqrt(mx::sum(mx::square(mx::astype(weight, mx::float32)), -1));
}

mx::array adapted_row_norms(const mx::array& norms_O, const mx::array& wa_RO, const LoraPair& pair,
                            float scale) {
  const auto a_IR = mx::astype(pair.a, mx::float32);
  const auto b_RO = mx::astype(pair.b, mx::float32) * scale;
  const auto gram_RR = mx::matmul(mx::transpose(a_IR), a_IR);
  const auto cross_O = mx::sum(mx::astype(wa_RO, mx::float32) * b_RO, 0);
  const auto update_O = mx::sum(b_RO * mx::matmul(gram_RR, b_RO), 0);
  const auto base_O = mx::square(norms_O);
  const auto least_O = mx::maximum(kSquareNoise * base_O, mx::array(kSmallestNorm * kSmallestNorm));
  return mx::stop_gradient(mx::sqrt(mx::maximum(base_O + 2.0F * cross_O + update_O, least_O)));
}

Params init_lora(const LoraConfig& config, const std::vector<std::pair<std::string, mx::Shape>>& layers,
                 std::uint64_t seed) {
  Params params;
  for (const auto& [name, shape] : layers) {
    const int rank = config.of(name).rank;
    const int out_features = shape.at(0);
    const int in_features = shape.at(1);
    const float bound = 1.0F / std::sqrt(static_cast<float>(in_features));
    params.insert_or_assign(name + ".lora_a", mx::random::uniform(-bound, bound, {in_features, rank},
                                                                  mx::float32, named_key(seed, name)));
    params.insert_or_assign(name + ".lora_b", mx::zeros({rank, out_features}, mx::float32));
  }
  mx::eval(values(params));
  return params;
}

mx::array merge_lora(const LoraConfig& config, const LoraPair& pair, const mx::array& weight,
                     const std::optional<mx::array>& magnitude_O) {
  const auto update_IO = mx::matmul(mx::astype(pair.a, mx::float32), mx::astype(pair.b, mx::float32));
  auto merged = mx::astype(weight, mx::float32) + config.scale * mx::transpose(update_IO);
  if (magnitude_O) {
    const auto factor_O = *magnitude_O / mx::maximum(row_norms(merged), mx::array(kSmallestNorm));
    merged = merged * mx::expand_dims(factor_O, -1);
  }
  return mx::astype(merged, weight.dtype());
}

} // namespace temper
