// A function over host memory as an MLX operation: for what MLX's CPU back end computes an element at a time
// on one core. Every use has its plain-op twin, which is the oracle in tests and the path on other devices.
#pragma once

#include <functional>
#include <vector>

#include "temper/nn/params.h"

namespace temper {

// Reads row-contiguous fp32 (or int32) inputs, fills the outputs, all of them.
using HostKernel =
    std::function<void(const std::vector<const mx::array*>& inputs, const std::vector<float*>& outputs)>;

// Runs `kernel` on the CPU stream when the result is needed. Outputs are fp32 of the given shapes. Lazy; has
// no gradient of its own: wrap it in custom_vjp().
// `name` is what a profile shows, a literal.
std::vector<mx::array> host_op(const char* name, const std::vector<mx::array>& inputs,
                               const std::vector<mx::Shape>& output_shapes, HostKernel kernel);

// Whether host kernels serve `x`: fp32 on a CPU, and not switched off.
bool use_host_kernels(const mx::array& x);

// For tests and comparisons: without host kernels every operation takes its plain-op twin.
void set_host_kernels(bool enabled);

} // namespace temper
