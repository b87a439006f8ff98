// How a run fits in the memory it is given: which blocks are recomputed in the backward pass, and in how many
// parts a step is taken. Found on the graphs of the step itself (nn/graph_memory.h), which are built for the
// longest examples and never evaluated.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>

#include "temper/base/json.h"
#include "temper/data/loader.h"
#include "temper/train/step.h"

namespace temper {

// What a plan is made for.
struct PlannedRun {
  const Model& model;
  const StepOptions& step;
  const TrainState& state; // evaluated
  const TokenDataset& data;
  const LoaderOptions& loader;
  int grad_accumulation_steps = 1;
};

struct MemoryPlan {
  int num_blocks = 0;
  int num_recomputed = 0;              // of the blocks that train, the first so many
  std::int64_t micro_batch_tokens = 0; // columns of the largest micro-batch
  int num_micro_batches = 1;           // of the largest step
  std::int64_t peak_bytes = 0;         // weights and all
  std::int64_t headroom_bytes = 0;     // what one operation may allocate before the host waits
  std::int64_t budget_bytes = 0;
  Checkpointing checkpoint;

  bool fits() const {
    return peak_bytes <= budget_bytes;
  }
  // What MLX may hold before the host waits for what is in flight.
  std::size_t ceiling() const {
    return static_cast<std::size_t>(std::max<std::int64_t>(1, budget_bytes - headroom_bytes));
  }
  // One line: what was chosen, and what it takes.
  std::string sentence() const;
  Json to_json() const;
};

// Chooses what costs least time of what fits `budget_bytes`: the step as it is; else in parts, as long as these
// have enough tokens to keep the device busy; then recomputing as few blocks as it takes; then smaller parts,
// down to one example at a time. A plan that does not fit is the smallest there is. The model's and the state's
// arrays count; those that a step replaces are taken to be let go then.
MemoryPlan plan_memory(const PlannedRun& run, std::int64_t budget_bytes);

// The plan of a run that may take `limit_gb`, or with 0 what the device has: none where that is plenty or
// unknown. Throws OutOfMemory where a limit that was asked for cannot be kept: what it would take, and which
// keys to lower; of the device's own it warns.
std::optional<MemoryPlan> plan_for_limit(const PlannedRun& run, double limit_gb);

} // namespace temper
