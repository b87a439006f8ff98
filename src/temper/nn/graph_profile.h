// What each operation of a graph takes, on any device: MLX has no profiler of its own, so the graph's
// operations are run one after the other, in MLX's order, each waited for. What MLX would overlap is not, and
// each wait costs some microseconds: the sum is more than the graph takes at once.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "temper/nn/params.h"

namespace temper {

struct ProfiledOperation {
  std::string name;            // the primitive's; a custom kernel's or fused operation's own
  std::string inputs, outputs; // shapes and dtypes
  double start_s = 0;          // since the profile's start
  double seconds = 0;
  std::int64_t allocated_bytes = 0; // by MLX's counter, less what it freed
  std::int64_t active_bytes = 0;    // MLX's counter afterwards
};

// Evaluates `outputs`, whose graph nothing else may hold on to, and tells what each operation took; `start_s`
// counts from `origin_s` on.
std::vector<ProfiledOperation> profile_graph(const std::vector<mx::array>& outputs, double origin_s = 0);

} // namespace temper
