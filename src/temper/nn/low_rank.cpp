#include "temper/nn/low_rank.h"

#include <algorithm>

namespace temper {
namespace {

const mx::Device kCpu = mx::Device::cpu; // MLX has these decompositions nowhere else

// The same product with R at most min(I, O).
LoraPair not_wider(const LoraPair& pair) {
  const int rank = pair.a.shape(1);
  if (rank > pair.a.shape(0)) {
    return not_wider({mx::eye(pair.a.shape(0)), mx::matmul(pair.a, pair.b)});
  }
  if (rank > pair.b.shape(1)) {
    return {mx::matmul(pair.a, pair.b), mx::eye(pair.b.shape(1))};
  }
  return pair;
}

double sum_of_squares(const mx::array& x) {
  return x.size() == 0 ? 0.0 : static_cast<double>(mx::sum(mx::square(x)).item<float>());
}

} // namespace

LowRank lower_rank(const LoraPair& pair, int rank) {
  const auto [a_IR, b_RO] = not_wider({mx::astype(pair.a, mx::float32), mx::astype(pair.b, mx::float32)});
  const auto [qa_IR, ra_RR] = mx::linalg::qr(a_IR, kCpu);
  const auto [qb_OR, rb_RR] = mx::linalg::qr(mx::transpose(b_RO), kCpu);
  const auto parts = mx::linalg::svd(mx::matmul(ra_RR, mx::transpose(rb_RR)), true, kCpu);
  const int wide = a_IR.shape(1);
  const int kept = std::min(rank, wide);
  const auto& s_R = parts[1];
  const auto root_K = mx::sqrt(mx::slice(s_R, {0}, {kept}));
  const auto u_RK = mx::slice(parts[0], {0, 0}, {wide, kept});
  const auto v_RK = mx::transpose(mx::slice(parts[2], {0, 0}, {kept, wide}));
  LowRank found{{mx::contiguous(mx::matmul(qa_IR, u_RK) * root_K),
                 mx::contiguous(mx::transpose(mx::matmul(qb_OR, v_RK) * root_K))}};
  found.squares = sum_of_squares(s_R);
  found.lost_squares = sum_of_squares(mx::slice(s_R, {kept}, {wide}));
  mx::eval(found.pair.a, found.pair.b);
  return found;
}

} // namespace temper
