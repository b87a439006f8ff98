#include "temper/nn/pissa.h"

#include <algorithm>
#include <tuple>

#include "temper/base/error.h"

namespace temper {
namespace {

constexpr int kOversampling = 8; // directions beyond R that the random start has, as section 4.2 advises

const mx::Device kCpu = mx::Device::cpu; // MLX has these decompositions nowhere else

struct Svd {
  mx::array u_OK;
  mx::array s_K;
  mx::array vt_KI;
};

mx::array orthonormal(const mx::array& x) {
  return mx::linalg::qr(x, kCpu).first;
}

// Of a matrix with at least as many rows as columns. MLX gives all of U, rows x rows: of the triangle alone
// that is no more than needed.
Svd tall_svd(const mx::array& x) {
  const auto [q, r] = mx::linalg::qr(x, kCpu);
  const auto parts = mx::linalg::svd(r, true, kCpu);
  return {mx::matmul(q, parts[0]), parts[1], parts[2]};
}

Svd thin_svd(const mx::array& x) {
  if (x.shape(0) >= x.shape(1)) {
    return tall_svd(x);
  }
  const auto turned = tall_svd(mx::transpose(x));
  return {mx::transpose(turned.vt_KI), turned.s_K, mx::transpose(turned.u_OK)};
}

Svd randomized_svd(const mx::array& weight, int rank, int iterations, const mx::array& key) {
  const int width = std::min({rank + kOversampling, weight.shape(0), weight.shape(1)});
  const auto weight_IO = mx::transpose(weight);
  const auto start = mx::random::normal({weight.shape(1), width}, mx::float32, 0.0F, 1.0F, key);
  auto q_OK = orthonormal(mx::matmul(weight, start));
  for (int i = 0; i < iterations; ++i) {
    q_OK = orthonormal(mx::matmul(weight, orthonormal(mx::matmul(weight_IO, q_OK))));
  }
  const auto small = thin_svd(mx::matmul(mx::transpose(q_OK), weight));
  return {mx::matmul(q_OK, small.u_OK), small.s_K, small.vt_KI};
}

} // namespace

LoraPair pissa_factors(const mx::array& weight, int rank, float scale, std::optional<int> iterations,
                       const mx::array& key) {
  if (rank > std::min(weight.shape(0), weight.shape(1))) {
    throw ConfigError("lora_parameters.init pissa: rank " + std::to_string(rank) +
                      " is more than a weight of shape " + shape_text(weight.shape()) + " has singular values");
  }
  const auto w_OI = mx::astype(weight, mx::float32);
  const auto [u_OK, s_K, vt_KI] = iterations ? randomized_svd(w_OI, rank, *iterations, key) : thin_svd(w_OI);
  const auto root_R = mx::sqrt(mx::slice(s_K, {0}, {rank}) / scale);
  const auto u_OR = mx::slice(u_OK, {0, 0}, {weight.shape(0), rank});
  const auto vt_RI = mx::slice(vt_KI, {0, 0}, {rank, weight.shape(1)});
  const auto a_IR = mx::contiguous(mx::transpose(vt_RI) * root_R);
  const auto b_RO = mx::contiguous(mx::transpose(u_OR * root_R));
  mx::eval(a_IR, b_RO);
  return {a_IR, b_RO};
}

} // namespace temper
