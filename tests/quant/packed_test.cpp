#include "temper/quant/packed.h"

#include "nn/support.h"
#include "temper/base/error.h"

using namespace temper;
using namespace temper::test;

namespace {

std::vector<QuantFormat> all_formats() {
  std::vector<QuantFormat> formats;
  for (const auto& mode : quant_modes()) {
    for (const int bits : mode.bits) {
      for (const int group_size : mode.group_sizes) {
        formats.push_back({mode.name, bits, group_size});
      }
    }
  }
  return formats;
}

QuantFormat inferred(const PackedWeight& p, int in_features) {
  return infer_quant_format(p.weight, p.scales, p.biases.has_value(), in_features, "up");
}

// The step between two values of a group, at most: the largest error, since MLX moves an affine grid by up to
// half a step so that it holds zero.
float step_of(const QuantFormat& format, float range) {
  if (format.mode == "affine") {
    return range / static_cast<float>((1 << format.bits) - 1);
  }
  return format.bits == 8 ? range / 8.0F : range / 2.0F; // e4m3 and e2m1, whose scales are powers of two
}

} // namespace

TEST_CASE("what is packed comes back within a step, in every format, and its format is inferred") {
  const auto weight = randn({2, 5, 256}, "weight");
  const float range = mx::max(weight).item<float>() - mx::min(weight).item<float>();
  for (const auto& format : all_formats()) {
    CAPTURE(describe(format));
    const auto packed = quantize(weight, format, "up");
    CHECK(packed.weight.shape() == packed_shape(format, weight.shape(), "up"));
    CHECK(packed.scales.shape() == scales_shape(format, weight.shape(), "up"));
    CHECK(packed.in_features() == 256);
    CHECK(inferred(packed, 256) == format);
    CHECK(max_difference(dequantize(packed, mx::float32), weight) < step_of(format, range));
  }
}

TEST_CASE("half precision scales: float32 is computed in float32, half precision as MLX does") {
  const auto weight = mx::astype(randn({4, 64}, "weight"), mx::bfloat16);
  const auto packed = quantize(weight, {"affine", 4, 32}, "up");
  CHECK(packed.scales.dtype() == mx::bfloat16);
  const auto half = mx::dequantize(packed.weight, packed.scales, packed.biases, 32, 4);
  CHECK(same_bits(dequantize(packed, mx::bfloat16), half));
  const auto exact = mx::dequantize(packed.weight, mx::astype(packed.scales, mx::float32),
                                    mx::astype(*packed.biases, mx::float32), 32, 4);
  CHECK(same_bits(dequantize(packed, mx::float32), exact));
  CHECK(max_difference(half, exact) > 0.0F);
}

TEST_CASE("products with few and with many rows are those with the unpacked weight, gradients too") {
  const auto weight = randn({24, 128}, "weight");
  for (const auto& format : all_formats()) {
    CAPTURE(describe(format));
    const auto packed = quantize(weight, format, "up");
    const auto dense = dequantize(packed, mx::float32);
    for (const int rows : {1, 100}) {
      CAPTURE(rows);
      const auto x = randn({2, rows, 128}, "x");
      const Function product = [&](const Arrays& in) { return packed_matmul(in[0], packed); };
      const Function plain = [&](const Arrays& in) { return mx::matmul(in[0], mx::transpose(dense)); };
      CHECK(relative_difference(product({x}), plain({x})) < 1e-5F);
      CHECK(relative_difference(gradients_of(product, {x})[0], gradients_of(plain, {x})[0]) < 1e-5F);
    }
  }
}

TEST_CASE("a product differs from the dense one by no more than the weights' steps add up to") {
  const auto weight = randn({24, 128}, "weight");
  const float range = mx::max(weight).item<float>() - mx::min(weight).item<float>();
  const auto x = randn({3, 128}, "x");
  const auto bound_N1 = mx::sum(mx::abs(x), -1, true);
  for (const auto& format : all_formats()) {
    CAPTURE(describe(format));
    const auto error =
        mx::abs(packed_matmul(x, quantize(weight, format, "up")) - mx::matmul(x, mx::transpose(weight)));
    CHECK(mx::max(error / bound_N1).item<float>() < step_of(format, range));
    CHECK(mx::max(error).item<float>() > 0.0F);
  }
}

TEST_CASE("products come in the input's dtype, whatever the scales'") {
  const auto packed = quantize(mx::astype(randn({24, 64}, "weight"), mx::float16), {"affine", 4, 32}, "up");
  for (const int rows : {1, 200}) {
    const auto x = mx::astype(randn({rows, 64}, "x"), mx::bfloat16);
    CHECK(packed_matmul(x, packed).dtype() == mx::bfloat16);
  }
}

TEST_CASE("recomputing a block that multiplies with packed weights asks them for no gradient") {
  const auto packed = quantize(randn({64, 64}, "weight"), {"affine", 4, 32}, "up");
  for (const int rows : {1, 200}) {
    const Function plain = [&](const Arrays& in) { return mx::tanh(packed_matmul(in[0], packed)); };
    const Function again = [&](const Arrays& in) {
      const auto run = [&](const Arrays& all) {
        const PackedWeight own{all[1], all[2], all[3], packed.format};
        return Arrays{mx::tanh(packed_matmul(all[0], own))};
      };
      return mx::checkpoint(run)({in[0], packed.weight, packed.scales, *packed.biases})[0];
    };
    const auto x = randn({rows, 64}, "x");
    CHECK(max_difference(gradients_of(again, {x})[0], gradients_of(plain, {x})[0]) == 0.0F);
  }
}

TEST_CASE("tensors that are no packed matrix are named") {
  const auto packed = quantize(randn({4, 128}, "weight"), {"affine", 4, 32}, "up");
  const auto complaint = [&](const mx::array& weight, const mx::array& scales, bool has_biases) {
    return message_of<ModelError>([&] { infer_quant_format(weight, scales, has_biases, 128, "up"); });
  };
  CHECK(complaint(packed.weight, packed.scales, true).empty());
  CHECK(contains(complaint(mx::astype(packed.weight, mx::float32), packed.scales, true), "tensor up.weight"));
  CHECK(contains(complaint(mx::zeros({4, 15}, mx::uint32), packed.scales, true), "has 15 words a row"));
  CHECK(contains(complaint(packed.weight, mx::zeros({4, 3}), true), "tensor up.scales has 3 groups a row"));
  CHECK(contains(complaint(packed.weight, mx::zeros({4, 16}), true), "4 bits in groups of 8"));
  CHECK(contains(complaint(packed.weight, packed.scales, false), "no biases, which is no mode"));
  CHECK(contains(complaint(packed.weight, mx::zeros({4, 2}, mx::uint8), false), "groups of 64, uint8 scales"));
  CHECK(contains(message_of<ModelError>([&] {
                   quantize(mx::zeros({4, 48}), {"affine", 4, 32}, "up");
                 }),
                 "layer up"));
}
