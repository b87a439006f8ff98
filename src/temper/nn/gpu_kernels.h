// CUDA kernels for what MLX does in several passes over memory, or by products made for wide matrices: written
// as source, compiled at run time. Every one has its plain-op twin, which is the oracle in tests and the path
// elsewhere. Half precisions only; computed in fp32. Lazy.
// Dims: N rows, V vocabulary, H heads, D head_dim, K half of the rotated features, R rank, C columns.
#pragma once

#include <initializer_list>
#include <utility>
#include <vector>

#include "temper/nn/params.h"
#include "temper/quant/packed.h"

namespace temper::gpu {

// Whether there is a CUDA device that compiles kernels, and they are not switched off.
bool available();

// Whether the kernels serve x: a half precision on a CUDA device, and not switched off; all of `multiples_of_8`
// and its last axis being such.
bool serves(const mx::array& x, std::initializer_list<int> multiples_of_8 = {});

// For tests and comparisons: without them every operation takes its plain-op twin.
void set_kernels(bool enabled);

// What a gated product multiplies `up` with: silu(gate), or gelu(gate) in its tanh form (activation.h).
enum class Gate { silu, gelu_tanh };

// gate * sigmoid(gate) * up, or gelu(gate) * up. Differentiable.
mx::array gated(Gate kind, const mx::array& gate, const mx::array& up);

// Whether the kernels below serve low-rank products of this rank.
constexpr int kLargestRank = 64;
constexpr std::size_t kMostProducts = 4; // of one row_products()

// The columns [first, first + R) of narrow [N, .] times factor [R, C].
struct LowRank {
  mx::array narrow;
  int first = 0;
  mx::array factor;
};

// The sum of one to three `bases` [N, C] and a low-rank product. No gradient of its own.
mx::array add_low_rank(const std::vector<mx::array>& bases, const LowRank& update);

// swiglu(gate + gate_update, up + up_update), all [N, C]. No gradient of its own.
mx::array adapted_swiglu(const mx::array& gate, const mx::array& up, const LowRank& gate_update,
                         const LowRank& up_update);

// For the cotangent d + d_update of adapted_swiglu(): the gradients in gate and up, and adapted_swiglu() again.
std::vector<mx::array> adapted_swiglu_gradient(const mx::array& gate, const mx::array& up,
                                               const LowRank& gate_update, const LowRank& up_update,
                                               const mx::array& d, const LowRank& d_update);

// The matrices [C, R_i], transposed, one above the other: [the sum of R_i, C]. No gradient of its own.
mx::array stack_transposed(const std::vector<mx::array>& matrices);

// The elements of all arrays end to end, of one half precision, in one launch for hundreds. No gradient of its
// own.
mx::array join(const std::vector<mx::array>& arrays);

// Whether norm_beside() serves rows of x.
bool norm_serves(const mx::array& x);

// x itself, and x / sqrt(mean(x^2) + eps) * weight over the last axis, for a weight that is not trained. Their
// gradients in x are summed where the norm's is made. Differentiable in x.
std::pair<mx::array, mx::array> norm_beside(const mx::array& x, const mx::array& weight, float eps);

// temper::dequantize(packed, dtype); for mode affine of 2, 4 or 8 bits by a kernel that writes 16 bytes a
// thread. No gradient flows into the packed parts.
mx::array dequantize(const PackedWeight& packed, mx::Dtype dtype);

struct RowProduct {
  mx::array wide_NC;
  mx::array factor_RC;
};

// scale wide factor^T of each, side by side: [N, the sum of R]. Of at most kMostProducts, all ranks together at
// most kLargestRank. No gradient of its own.
mx::array row_products(const std::vector<RowProduct>& products, float scale);

// narrow's columns from `first` on, transposed, times wide: for each of `ranks`, one after the other, a result
// [R, C], or [C, R] where `transposed`.
struct ColumnProduct {
  mx::array narrow;
  int first = 0;
  std::vector<int> ranks;
  mx::array wide_NC;
  bool transposed = false;
};

// All results in order. A product's ranks together are at most kLargestRank. No gradient of their own.
std::vector<mx::array> column_products(const std::vector<ColumnProduct>& products);

// x [..., H D], each head's features k and k + K turned by the angles of cos, sin fp32 [N, K]. Differentiable
// in x.
mx::array rope(const mx::array& x, const mx::array& cos_NK, const mx::array& sin_NK, int num_heads);

// weight * (-log softmax(logits)[target]), fp32 [N], and its gradient in the logits [N, V], in their dtype, for
// targets int32 [N], weights fp32 [N].
std::pair<mx::array, mx::array> cross_entropy(const mx::array& logits_NV, const mx::array& targets_N,
                                              const mx::array& weights_N);

} // namespace temper::gpu
