// The GPU's kernels for few rows beside plain operations in fp32. Without a CUDA device there is nothing to
// run.
#include "temper/nn/gpu_decode.h"

#include <cmath>

#include "nn/gpu_support.h"

using namespace temper;
using namespace temper::test;

namespace {

constexpr float kRounding = 1e-2F; // to bfloat16, of what is multiplied and of the result

mx::array weight_of(const gpu::RowNorm& norm) {
  return norm.plus_one ? wide(norm.weight) + 1.0F : wide(norm.weight);
}

mx::array normed(const mx::array& x, const gpu::RowNorm& norm) {
  return mx::fast::rms_norm(wide(x), weight_of(norm), norm.eps);
}

mx::array product(const mx::array& x, const gpu::FewRowProduct& layer) {
  const auto y = mx::matmul(wide(x), mx::transpose(wide(layer.weight_OI)));
  return layer.bias_O ? y + wide(*layer.bias_O) : y;
}

// x [M, C] whose heads' features k and k + K are turned.
mx::array turned(const mx::array& x, const gpu::HeadAngles& angles) {
  const int half = angles.cos.shape(-1);
  const auto heads = mx::unflatten(x, 1, {x.shape(1) / angles.head_dim, angles.head_dim});
  const auto cos = mx::reshape(angles.cos, {-1, 1, half});
  const auto sin = mx::reshape(angles.sin, {-1, 1, half});
  const auto parts = mx::split(heads, mx::Shape{half, 2 * half}, 2);
  return mx::flatten(
      mx::concatenate({parts[0] * cos - parts[1] * sin, parts[1] * cos + parts[0] * sin, parts[2]}, 2), 1, 2);
}

gpu::HeadAngles some_angles(int rows, int half, int head_dim) {
  const auto angles = randn({rows, 1, 1, half}, "angles") * 3.0F;
  return {mx::cos(angles), mx::sin(angles), head_dim};
}

} // namespace

TEST_CASE("products of a few normed rows on a GPU, turned, with biases, of sizes that fill no warp") {
  if (no_gpu()) {
    return;
  }
  for (const int rows : {1, 2, 3, 4}) {
    for (const int in : {264, 2048}) {
      for (const bool plus_one : {false, true}) {
        CAPTURE(rows);
        CAPTURE(in);
        const auto x = half_of({rows, in}, "x");
        const gpu::RowNorm norm{half_of({in}, "norm"), 1e-5F, plus_one};
        const auto angles = some_angles(rows == 3 ? 1 : rows, 12, 32);
        const auto layer = [&](int out, const std::string& name, bool turns) {
          return gpu::FewRowProduct{
              half_of({out, in}, name, 0.1F), half_of({out}, name + " bias"), {rows, out}, turns};
        };
        const std::vector<gpu::FewRowProduct> layers{layer(96, "q", true), layer(32, "k", true),
                                                     layer(40, "v", false)};
        const auto found = gpu::few_row_products(x, norm, layers, angles);
        const auto y = normed(x, norm);
        CHECK(relative_difference(wide(found[0]), turned(product(y, layers[0]), angles)) < kRounding);
        CHECK(relative_difference(wide(found[1]), turned(product(y, layers[1]), angles)) < kRounding);
        CHECK(relative_difference(wide(found[2]), product(y, layers[2])) < kRounding);
      }
    }
  }
}

TEST_CASE("a product of a few rows joins a stream on a GPU, in both half precisions") {
  if (no_gpu()) {
    return;
  }
  for (const auto dtype : {mx::bfloat16, mx::float16}) {
    for (const int rows : {1, 3}) {
      for (const int in : {72, 8192}) {
        const auto of = [&](const mx::Shape& shape, const std::string& name) {
          return mx::astype(randn(shape, name) * 0.1F, dtype);
        };
        const auto x = of({rows, in}, "x");
        const gpu::FewRowProduct layer{of({1032, in}, "weight"), of({1032}, "bias"), {rows, 1032}};
        const auto stream = of({rows, 1032}, "stream");
        const auto found = gpu::few_row_sum(x, layer.weight_OI, layer.bias_O, stream, 0.5F);
        CHECK(relative_difference(wide(found), wide(stream) + 0.5F * product(x, layer)) < kRounding);
      }
    }
  }
}

TEST_CASE("gated products of a few rows on a GPU, of every activation") {
  if (no_gpu()) {
    return;
  }
  for (const auto activation :
       {Activation::silu, Activation::gelu, Activation::gelu_tanh, Activation::clamped_swiglu}) {
    for (const int rows : {1, 4}) {
      const auto x = half_of({rows, 1, 520}, "x");
      const gpu::RowNorm norm{half_of({520}, "norm"), 1e-6F, false};
      const auto gate = half_of({1001, 520}, "gate", 0.1F);
      const auto up = half_of({1001, 520}, "up", 0.1F);
      const auto y = normed(x, norm);
      const auto expected =
          glu(activation, product(y, {gate, std::nullopt, {}}), product(y, {up, std::nullopt, {}}), 2.0F);
      CHECK(relative_difference(wide(gpu::few_row_glu(x, norm, gate, up, activation, 2.0F)), expected) <
            kRounding);
    }
  }
}

TEST_CASE("heads are normed and turned on a GPU, and a norm joins a stream") {
  if (no_gpu()) {
    return;
  }
  for (const int rows : {1, 3}) {
    const auto q = half_of({rows, 3, 1, 80}, "q");
    const auto k = half_of({rows, 1, 1, 80}, "k");
    const gpu::RowNorm of_q{half_of({80}, "q norm"), 1e-5F, true};
    const gpu::RowNorm of_k{half_of({80}, "k norm"), 1e-5F, true};
    const auto angles = some_angles(rows, 24, 80);
    const auto [found_q, found_k] = gpu::normed_heads(q, k, of_q, of_k, angles);
    const auto expected = [&](const mx::array& x, const gpu::RowNorm& norm) {
      return turned(mx::flatten(normed(x, norm), 1, 3), angles);
    };
    CHECK(relative_difference(wide(mx::flatten(found_q, 1, 3)), expected(q, of_q)) < kRounding);
    CHECK(relative_difference(wide(mx::flatten(found_k, 1, 3)), expected(k, of_k)) < kRounding);

    const auto stream = half_of({rows, 1, 2304}, "stream");
    const auto y = half_of({rows, 1, 2304}, "y");
    const gpu::RowNorm norm{half_of({2304}, "norm"), 1e-6F, true};
    CHECK(relative_difference(wide(gpu::norm_added(stream, y, norm, 0.25F)),
                              wide(stream) + 0.25F * normed(y, norm)) < kRounding);
  }
}

TEST_CASE("angles of tokens on a GPU") {
  if (no_gpu()) {
    return;
  }
  const auto offsets = mx::array({0, 5, 100000}, {3}, mx::int32);
  const auto periods = mx::exp(mx::arange(0.0, 20.0, 1.0, mx::float32) * 0.7F);
  const auto [cos, sin] = gpu::token_angles(offsets, periods);
  const auto angles = mx::reshape(mx::astype(offsets, mx::float32), {3, 1, 1, 1}) / periods;
  CHECK(mx::max(mx::abs(cos - mx::cos(angles))).item<float>() < 2e-2F);
  CHECK(mx::max(mx::abs(sin - mx::sin(angles))).item<float>() < 2e-2F);
}
