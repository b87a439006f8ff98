// What tests of the GPU's kernels share. Without a CUDA device there is nothing to run.
#pragma once

#include "nn/support.h"
#include "temper/nn/gpu_kernels.h"

namespace temper::test {

inline mx::array half_of(const mx::Shape& shape, const std::string& name, float scale = 1.0F) {
  return mx::astype(randn(shape, name) * scale, mx::bfloat16);
}

inline mx::array wide(const mx::array& x) {
  return mx::astype(x, mx::float32);
}

// Says so where a test is skipped.
inline bool no_gpu() {
  if (!gpu::available()) {
    MESSAGE("no CUDA device: skipped");
  }
  return !gpu::available();
}

} // namespace temper::test
