// Trading arithmetic for memory in the backward pass.
#pragma once

#include <functional>
#include <vector>

#include "temper/nn/params.h"

namespace temper {

using ArrayFunction = std::function<std::vector<mx::array>(const std::vector<mx::array>&)>;

// `f`, keeping only its inputs for the backward pass and running again there, not before its cotangents are
// known: else MLX would recompute every layer ahead of time and hold what that makes. `f` must be
// differentiable in each input; arrays that need no gradient are captured by value. Lazy.
inline ArrayFunction recomputed(const ArrayFunction& f) {
  const auto backward = [f](const std::vector<mx::array>& inputs, const std::vector<mx::array>& cotangents,
                            const std::vector<mx::array>&) {
    return mx::vjp(f, mx::depends(inputs, cotangents), cotangents).second;
  };
  return mx::custom_vjp(f, backward);
}

} // namespace temper
