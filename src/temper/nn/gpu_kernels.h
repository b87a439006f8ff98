// CUDA kernels for what MLX does in several passes over memory: written as source, compiled by MLX at run time.
// Every one has its plain-op twin, which is the oracle in tests and the path elsewhere. Half precisions only;
// computed in fp32. Lazy.
// Dims: N rows, V vocabulary, H heads, D head_dim, K half of the rotated features.
#pragma once

#include <initializer_list>
#include <utility>
#include <vector>

#include "temper/nn/params.h"

namespace temper::gpu {

// Whether the kernels serve x: a half precision on a CUDA device, and not switched off; all of `multiples_of_8`
// and its last axis being such.
bool serves(const mx::array& x, std::initializer_list<int> multiples_of_8 = {});

// For tests and comparisons: without them every operation takes its plain-op twin.
void set_kernels(bool enabled);

// gate * sigmoid(gate) * up. Differentiable.
mx::array swiglu(const mx::array& gate, const mx::array& up);

// Whether the kernels below serve low-rank products of this rank.
constexpr int kLargestRank = 64;

// The columns [first, first + R) of narrow [N, .] times factor [R, O].
struct LowRank {
  mx::array narrow;
  int first = 0;
  mx::array factor;
};

// The sum of one to three `bases` [N, O] and a low-rank product. No gradient of its own.
mx::array add_low_rank(const std::vector<mx::array>& bases, const LowRank& update);

// swiglu(gate + gate_update, up + up_update), all [N, O]. No gradient of its own.
mx::array adapted_swiglu(const mx::array& gate, const mx::array& up, const LowRank& gate_update,
                         const LowRank& up_update);

// For the cotangent d + d_update of adapted_swiglu(): the gradients in gate and up, and adapted_swiglu() again.
std::vector<mx::array> adapted_swiglu_gradient(const mx::array& gate, const mx::array& up,
                                               const LowRank& gate_update, const LowRank& up_update,
                                               const mx::array& d, const LowRank& d_update);

// x [..., H D], each head's features k and k + K turned by the angles of cos, sin fp32 [N, K]. Differentiable
// in x.
mx::array rope(const mx::array& x, const mx::array& cos_NK, const mx::array& sin_NK, int num_heads);

// weight * (-log softmax(logits)[target]), fp32 [N], and its gradient in the logits [N, V], in their dtype, for
// targets int32 [N], weights fp32 [N].
std::pair<mx::array, mx::array> cross_entropy(const mx::array& logits_NV, const mx::array& targets_N,
                                              const mx::array& weights_N);

} // namespace temper::gpu
