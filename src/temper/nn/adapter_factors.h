// The low-rank factors of layers over one input, joined, and the narrow products in their forward and backward
// passes: what adapted_linear.h's operations are made of. Lazy; nothing here has a gradient of its own.
// Dims: N tokens, I in_features, O out_features, R rank, S the ranks of all layers together.
#pragma once

#include <vector>

#include "temper/nn/adapted_linear.h"

namespace temper {

// x [..., F] -> [N, F], and rows [N, F] -> [..., F] with the leading dims of `like`.
mx::array as_rows(const mx::array& x);
mx::array with_features(const mx::array& rows, const mx::array& like);

// The matrix [O, I] in `dtype`. A packed one is unpacked only once `after`, if any, is there.
mx::array matrix_of(const LinearWeight& weight, mx::Dtype dtype, const mx::array* after);

// x W^T, plus the bias where `with_bias`.
mx::array product(const LinearWeight& weight, const mx::array& x, bool with_bias = true);

// x, each adapted layer's A and B, then what else trains: each layer's magnitude, matrix and bias.
std::vector<mx::array> inputs_of(const std::vector<AdaptedLinear>& layers, const mx::array& x);

// The factors of the layers that have them, in x's dtype.
struct Factors {
  mx::array a_SI = mx::array(0.0F); // one above the other
  std::vector<mx::array> b_RO;
  std::vector<int> ranks;
  std::vector<int> first; // each layer's first row of a_SI
  std::vector<float> scales;
  int all_ranks = 0;
  float dropout = 0.0F;
  std::vector<mx::array> dropout_keys; // each layer's; none: nothing is dropped
  std::vector<mx::array> drawn_masks;  // where drawing them again costs more than holding them

  // `inputs` as inputs_of() gives them. The joined A is kept, or found there; so are
  // the masks that are drawn once.
  Factors(const std::vector<AdaptedLinear>& layers, const std::vector<mx::array>& inputs, Kept* kept);

  bool empty() const {
    return b_RO.empty();
  }
  bool have_one_scale() const;
  // narrow [N, S], each layer's columns times its scale.
  mx::array scaled_columns(const mx::array& narrow_NS) const;
  // What of x [N, I] each layer's A is given, not before `after`, if any, is there; empty: all of it.
  std::vector<mx::array> masks(const mx::array& x_NI, const mx::array* after) const;
  // masks() of x, applied to it; one array, x itself, where nothing is dropped.
  std::vector<mx::array> masked_inputs(const mx::array& x_NI, const std::vector<mx::array>& masks) const;
};

mx::array sum_of(const std::vector<mx::array>& parts);

// The sum of `bases` and of narrow's columns from `first` on times `factor`.
mx::array add_low_rank(const std::vector<mx::array>& bases, const mx::array& narrow, int first,
                       const mx::array& factor);

// x A of all layers, times their scales: [N, S].
mx::array narrow_product(const Factors& factors, const mx::array& x_NI);

// du B^T of all layers, times their scales: [N, S]. cotangents: of the adapted layers' outputs, [N, O].
mx::array narrow_gradient(const Factors& factors, const std::vector<mx::array>& cotangents);

// The sum of `bases` and of the gradient that comes through the factors.
mx::array input_gradient(const Factors& factors, const std::vector<mx::array>& bases,
                         const mx::array& d_narrow_NS, const std::vector<mx::array>& masks);

// What the gradients of the factors of layers over one input come from.
struct GradientParts {
  const Factors& factors;
  std::vector<mx::array> inputs_NI; // as masked_inputs() gives them
  mx::array narrow_NS;
  mx::array d_narrow_NS;
  std::vector<mx::array> cotangents;
};

// A, B of each adapted layer, of one group of layers after the other.
std::vector<mx::array> factor_gradients(const std::vector<GradientParts>& groups);

// Gradients in the dtypes of `inputs`: in x, which leaves only once the `others` are formed, so that what they
// read need not wait for the rest of the backward pass.
std::vector<mx::array> in_order(const std::vector<mx::array>& inputs, const mx::array& dx,
                                const std::vector<mx::array>& others);

} // namespace temper
