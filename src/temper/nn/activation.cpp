#include "temper/nn/activation.h"

#include <cmath>
#include <numbers>

#include "temper/nn/fused.h"
#include "temper/nn/gpu_kernels.h"
#include "temper/nn/recompute.h"

namespace temper {
namespace {

using Arrays = std::vector<mx::array>;

constexpr float kClampedAlpha = 1.702F;

mx::array gelu(const mx::array& x) {
  return x * (mx::erf(x * (1.0F / std::numbers::sqrt2_v<float>)) + 1.0F) * 0.5F;
}

mx::array gelu_tanh(const mx::array& x) {
  const float root = std::sqrt(2.0F * std::numbers::inv_pi_v<float>);
  return x * (mx::tanh(root * (x + 0.044715F * x * x * x)) + 1.0F) * 0.5F;
}

mx::array clamped_swiglu(const mx::array& gate, const mx::array& up, float clamp) {
  const auto limit = mx::array(clamp);
  const auto g = mx::minimum(gate, limit);
  return g * mx::sigmoid(kClampedAlpha * g) * (mx::clip(up, -limit, limit) + 1.0F);
}

mx::array plain_glu(Activation activation, const mx::array& gate, const mx::array& up, float limit) {
  switch (activation) {
    case Activation::gelu:
      return gelu(gate) * up;
    case Activation::gelu_tanh:
      return gelu_tanh(gate) * up;
    case Activation::clamped_swiglu:
      return clamped_swiglu(gate, up, limit);
    case Activation::silu:
      break;
  }
  return gate * mx::sigmoid(gate) * up;
}

} // namespace

mx::array glu(Activation activation, const mx::array& gate, const mx::array& up, float limit) {
  if (activation == Activation::silu) {
    return swiglu(gate, up);
  }
  if (activation == Activation::gelu_tanh && gpu::serves(gate)) {
    return gpu::gated(gpu::Gate::gelu_tanh, gate, up);
  }
  const auto forward = [activation, limit](const Arrays& in) {
    const auto y = plain_glu(activation, mx::astype(in[0], mx::float32), mx::astype(in[1], mx::float32), limit);
    return Arrays{mx::astype(y, in[0].dtype())};
  };
  return recomputed(forward)({gate, up})[0];
}

} // namespace temper
