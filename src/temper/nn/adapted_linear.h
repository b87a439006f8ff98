// Linear layers over one input and their low-rank adapters as one operation with a backward pass written by
// hand: the factors A of all layers are one narrow product, updates and input gradients ride in the epilogues
// of the products with the weights, and a gradient leaves only once those of factors and weights are formed.
// Source of the gradients: LoRA, arXiv:2106.09685, section 4.1, and DoRA, arXiv:2402.09353, eq. 5 and section
// 4.3 (the norm is a constant), by the chain rule. With mask_i the share of x that dropout leaves and c_i = 1
// without DoRA:
//   u_i = x W_i^T + s_i (mask_i x) A_i B_i,  y_i = c_i u_i + bias_i,
//   dc_i = sum dy_i u_i,  dbias_i = sum dy_i,  and with du_i = c_i dy_i:
//   dW_i = du_i^T x,  dA_i = s_i (mask_i x)^T (du_i B_i^T),  dB_i = s_i ((mask_i x) A_i)^T du_i,
//   dx = sum_i du_i W_i + s_i mask_i ((du_i B_i^T) A_i^T).
// Dims: N tokens, I in_features, O out_features, R rank.
#pragma once

#include <optional>
#include <vector>

#include "temper/nn/lora.h"
#include "temper/nn/params.h"
#include "temper/nn/recompute.h"
#include "temper/quant/packed.h"

namespace temper {

// A layer's matrix, dense [O, I] or packed, and its bias [O].
struct LinearWeight {
  std::optional<mx::array> dense;
  std::optional<PackedWeight> packed;
  std::optional<mx::array> bias;
  bool trains_matrix = false; // a dense one's gradient is wanted
  bool trains_bias = false;
};

struct AdaptedLinear {
  LinearWeight weight;
  std::optional<LoraPair> lora;
  float scale = 1.0F;
  float dropout = 0.0F;                 // probability, on A's input: of all adapted layers, or of none
  std::optional<mx::array> dropout_key; // uint32 [2]; none: nothing is dropped
  std::optional<mx::array> magnitude_O; // DoRA's factor of each output feature (linear.h), in x's dtype
};

// x [..., I] -> y_i [..., O_i], in x's dtype. A packed weight is unpacked for each use, in the backward pass
// too; masks are drawn again there, but for where host kernels serve (host_op.h). `kept`, if any: the narrow
// products, and where `keep_outputs` the y_i (with DoRA always the u_i), are kept or found there. Lazy;
// differentiable in x, the factors, the magnitudes and what else trains.
std::vector<mx::array> adapted_linears(const std::vector<AdaptedLinear>& layers, const mx::array& x,
                                       Kept* kept = nullptr, bool keep_outputs = false);

// Whether adapted_swiglu_layers() serves: three frozen, adapted layers without biases, dropout or magnitudes,
// where the GPU's kernels serve.
bool adapted_swiglu_serves(const AdaptedLinear& gate, const AdaptedLinear& up, const AdaptedLinear& down,
                           const mx::array& x);

// down(swiglu(gate(x), up(x))), whose low-rank updates are added where the wide arrays are read anyway: for the
// backward pass gate's and up's products with their weights are kept, with `keep_output` the result too. Its
// twin is adapted_linears() and swiglu(). Lazy; differentiable in x and the factors.
mx::array adapted_swiglu_layers(const AdaptedLinear& gate, const AdaptedLinear& up, const AdaptedLinear& down,
                                const mx::array& x, Kept* kept, bool keep_output = false);

} // namespace temper
