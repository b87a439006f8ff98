// CUDA source compiled at run time without MLX's headers (a tenth of a second a kernel, where
// fast::cuda_kernel() takes one), kept for the process and launched as an MLX operation.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <mlx/fast.h>

#include "temper/nn/params.h"

namespace temper::gpu {

// Whether there is a CUDA device of compute capability 8.0 or more and the compiler library that MLX brings.
bool can_compile();

// extern "C" __global__ void `name`(`parameters`) { `body` } after `header`. In the text T is the half
// precision (a struct with conversions from and to float), and each of `constants` a constexpr int.
struct Source {
  std::string name;
  std::string header;
  std::string parameters; // inputs, outputs, then scalars
  std::string body;
};

using Constants = std::vector<std::pair<std::string, int>>;

struct Launch {
  std::size_t blocks;
  int threads;
  std::vector<mx::fast::ScalarArg> scalars; // after the outputs
  int shared_bytes = 0;                     // a block's, on top of what the body declares
  int blocks_per_processor = 0;             // at least: the compiler saves registers for that
};

constexpr std::size_t ceil_div(std::size_t a, std::size_t b) {
  return (a + b - 1) / b;
}

// A source compiled, for launches so many that finding it again by its text would cost more than they do.
struct Kernel {
  std::string name;
  std::string code;
  int threads; // a block's
};

// `half` is T. Throws ModelError with the compiler's words if the source does not compile.
Kernel make_kernel(const Source& source, mx::Dtype half, const Constants& constants, int threads);

// As run_kernel(), on `blocks` blocks.
std::vector<mx::array> launch_kernel(const Kernel& kernel, std::size_t blocks,
                                     const std::vector<mx::array>& inputs, const std::vector<mx::Shape>& shapes,
                                     const std::vector<mx::Dtype>& dtypes,
                                     const std::vector<mx::fast::ScalarArg>& scalars);

// The outputs, in `dtypes`, of the kernel over `inputs`, made row-contiguous where they aren't; `half` is T.
// Lazy. Throws ModelError with the compiler's words if the source does not compile.
std::vector<mx::array> run_kernel(const Source& source, mx::Dtype half, const Constants& constants,
                                  const std::vector<mx::array>& inputs, const std::vector<mx::Shape>& shapes,
                                  const std::vector<mx::Dtype>& dtypes, const Launch& launch);

// Has another thread compile what run_kernel() will want of these, unless it is compiled or being compiled.
void compile_ahead(const Source& source, mx::Dtype half, const Constants& constants, const Launch& launch);

} // namespace temper::gpu
