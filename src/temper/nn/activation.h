// Gated linear units: act(gate) * up, as the feed-forward layers of the families have them.
// Sources: Shazeer 2020, arXiv:2002.05202 (GLU variants); Hendrycks & Gimpel 2016, arXiv:1606.08415 (gelu and
// its tanh form); the clamped form is gpt-oss's, as transformers' GptOssExperts computes it.
#pragma once

#include "temper/nn/params.h"

namespace temper {

enum class Activation {
  silu,           // gate sigmoid(gate) up
  gelu,           // gate Phi(gate) up
  gelu_tanh,      // the same with Phi's tanh approximation
  clamped_swiglu, // g sigmoid(1.702 g) (u + 1), g = min(gate, limit), u = clamp(up, -limit, limit)
};

// `limit` is clamped_swiglu's. gate, up of one shape and dtype -> the same; computed in fp32. Lazy;
// differentiable in both, keeping no more than gate and up for the backward pass.
mx::array glu(Activation activation, const mx::array& gate, const mx::array& up, float limit = 7.0F);

} // namespace temper
