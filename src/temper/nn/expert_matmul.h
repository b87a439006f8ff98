// Rows times the matrix of each row's expert: the product under mixture-of-experts layers (moe.h).
// Dims: E experts, P rows, I in_features, O out_features.
#pragma once

#include "temper/nn/params.h"

namespace temper {

// Which matrix each row meets. Sorted rows (ascending experts) go through one product an expert.
struct RowExperts {
  mx::array experts_P; // uint32, less than E
  bool sorted = false;
};

// x [P, I] -> [P, 1, I], as MLX's gathered products take it. By reshape(): the stride that expand_dims() gives
// the new axis misleads the sorted product on GPUs (https://github.com/ml-explore/mlx/issues/4253).
mx::array as_matrices(const mx::array& x_PI);

// x [P, I] -> [P, O] by W [E, O, I]: y_p = x_p W_e^T, in x's dtype; W is cast to it. Lazy; differentiable in x
// and W, without scatter-adds if sorted. Any float dtype (MLX's own product is fp32 only on a CPU).
mx::array expert_matmul(const RowExperts& rows, const mx::array& x_PI, const mx::array& weight_EOI);

// The same with W [E, I, O]: y_p = x_p W_e.
mx::array expert_matmul_plain(const RowExperts& rows, const mx::array& x_PI, const mx::array& weight_EIO);

// bias [E, O] -> each row's, [P, O]. Lazy; differentiable, without scatter-adds.
mx::array expert_bias(const RowExperts& rows, const mx::array& bias_EO);

} // namespace temper
