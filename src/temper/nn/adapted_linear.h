// Linear layers over one input, frozen but for their low-rank adapters, as one operation with a backward pass
// written by hand: the factors A of all layers are one narrow product, updates and input gradients ride in the
// epilogues of the products with the weights, and a gradient leaves only once the factors' own are formed.
// Source of the gradients: LoRA, arXiv:2106.09685, section 4.1, by the chain rule:
//   y_i = x W_i^T + s_i x A_i B_i,  dA_i = s_i x^T (dy_i B_i^T),  dB_i = s_i (x A_i)^T dy_i,
//   dx = sum_i dy_i W_i + s_i (dy_i B_i^T) A_i^T.
// Dims: N tokens, I in_features, O out_features, R rank.
#pragma once

#include <optional>
#include <vector>

#include "temper/nn/lora.h"
#include "temper/nn/params.h"
#include "temper/nn/recompute.h"
#include "temper/quant/packed.h"

namespace temper {

// A layer's frozen matrix, dense [O, I] or packed, and its bias [O].
struct FrozenLinear {
  std::optional<mx::array> dense;
  std::optional<PackedWeight> packed;
  std::optional<mx::array> bias;
};

struct AdaptedLinear {
  FrozenLinear frozen;
  std::optional<LoraPair> lora;
  float scale = 1.0F;
};

// x [..., I] -> y_i [..., O_i], in x's dtype. A packed weight is unpacked for each use, in the backward pass
// too. `kept`, if any: the narrow products, and where `keep_outputs` the y_i, are kept or found there. Lazy;
// differentiable in x and the factors.
std::vector<mx::array> adapted_linears(const std::vector<AdaptedLinear>& layers, const mx::array& x,
                                       Kept* kept = nullptr, bool keep_outputs = false);

// Whether adapted_swiglu_layers() serves: three adapted layers without biases, where the GPU's kernels serve.
bool adapted_swiglu_serves(const AdaptedLinear& gate, const AdaptedLinear& up, const AdaptedLinear& down,
                           const mx::array& x);

// down(swiglu(gate(x), up(x))), whose low-rank updates are added where the wide arrays are read anyway: for the
// backward pass gate's and up's products with their weights are kept. Its twin is adapted_linears() and
// swiglu(). Lazy; differentiable in x and the factors.
mx::array adapted_swiglu_layers(const AdaptedLinear& gate, const AdaptedLinear& up, const AdaptedLinear& down,
                                const mx::array& x, Kept* kept);

} // namespace temper
