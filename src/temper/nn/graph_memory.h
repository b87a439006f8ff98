// What evaluating a graph takes, told before it is evaluated: the order that MLX evaluates it in, and the
// memory that lives on the way.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <set>
#include <string>
#include <vector>

#include "temper/nn/params.h"

namespace temper {

// The arrays that mx::eval(outputs) would evaluate, the last to be evaluated first: what MLX takes from the
// back of its own tape (one array of each operation, whatever the number of its results).
// Source: mlx 0.32.4, mlx/transforms.cpp, eval_impl. Lazy.
std::deque<mx::array> evaluation_tape(const std::vector<mx::array>& outputs);

// Bytes on top of what is in use now.
struct GraphMemory {
  std::int64_t peak = 0;    // the most at once, where one operation runs at a time
  std::int64_t largest = 0; // the most that one operation allocates
  std::int64_t left = 0;    // what is there at the end: `outputs`, less what was let go
};

// Of evaluating `outputs`, which stay. `released` are arrays in memory that nobody but the graph will hold by
// then. Views share their array's memory and element-wise operations take over an operand's that nobody else
// reads, as MLX has it; an operation's own workspace is not seen. Lazy.
GraphMemory graph_memory(const std::vector<mx::array>& outputs, const std::vector<mx::array>& released = {});

} // namespace temper
