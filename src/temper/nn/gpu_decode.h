// CUDA kernels for a token or a few at a time, where all there is to do is to read the weights: products of few
// rows with what comes before and after them in the same launch. Half precisions; computed in fp32. No
// gradients. Lazy.
// Dims: M rows, I in_features, O out_features, H query heads, G key heads, D head_dim, K half of the rotated
// features.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "temper/nn/activation.h"
#include "temper/nn/params.h"

namespace temper::gpu {

// Whether the kernels serve rows [..., I]: few, of a half precision, on a CUDA device, and not switched off.
bool few_rows_serve(const mx::array& x);

// Root mean square norm of rows, by `weight` [I], or 1 + weight.
struct RowNorm {
  mx::array weight;
  float eps;
  bool plus_one;
};

// x W^T (+ bias) with a row-contiguous W [O, I] of x's dtype, of `shape`, which has M O elements.
struct FewRowProduct {
  mx::array weight_OI;
  std::optional<mx::array> bias_O;
  mx::Shape shape;
  bool turned = false; // its heads' features are, by the angles
};

// By what heads of `head_dim` features turn, feature k with k + K: cos and sin fp32 [M or 1, ..., K].
struct HeadAngles {
  mx::array cos;
  mx::array sin;
  int head_dim;
};

// The products of x (of any shape with M I elements), normed if there is a norm, of one launch.
std::vector<mx::array> few_row_products(const mx::array& x, const std::optional<RowNorm>& norm,
                                        const std::vector<FewRowProduct>& products,
                                        const std::optional<HeadAngles>& angles = std::nullopt);

// stream + scale x W^T (+ bias), of stream's shape.
mx::array few_row_sum(const mx::array& x, const mx::array& weight_OI, const std::optional<mx::array>& bias_O,
                      const mx::array& stream, float scale);

// glu() (activation.h) of the normed x's products with gate and up [F, I]: [..., F].
mx::array few_row_glu(const mx::array& x, const RowNorm& norm, const mx::array& gate_FI, const mx::array& up_FI,
                      Activation activation, float limit);

// Each head of q [M, H, 1, D] and k [M, G, 1, D] normed, then turned (or not).
std::pair<mx::array, mx::array> normed_heads(const mx::array& q, const mx::array& k, const RowNorm& of_q,
                                             const RowNorm& of_k, const std::optional<HeadAngles>& angles);

// Whether norm_added() serves.
bool norm_added_serves(const mx::array& x);

// stream + scale norm(y).
mx::array norm_added(const mx::array& stream, const mx::array& y, const RowNorm& norm, float scale);

// Where available() (gpu_kernels.h): cos and sin of offsets / period, fp32 [M, 1, 1, K], for int32 offsets [M]
// (or a scalar) and fp32 periods [K].
std::pair<mx::array, mx::array> token_angles(const mx::array& offsets, const mx::array& periods_K);

} // namespace temper::gpu
