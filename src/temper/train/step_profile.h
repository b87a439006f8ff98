// Where a training step's time and memory go: by operation, by phase, by kind. Its JSON is described in
// docs/formats/profile.md.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "temper/base/json.h"
#include "temper/nn/graph_profile.h"
#include "temper/train/step.h"

namespace temper {

struct StepProfile {
  struct Phase {
    std::string name; // forward, backward, update
    std::vector<ProfiledOperation> operations;
  };
  std::vector<Phase> phases;
  std::int64_t weights_bytes = 0;   // frozen and, where they train whole, the model's own copies
  std::int64_t trained_bytes = 0;   // adapters, or master weights
  std::int64_t optimizer_bytes = 0; // its state
  std::int64_t other_bytes = 0;     // in use beside these before the step: what other arrays hold
  std::int64_t peak_bytes = 0;      // over the step, all of it

  double seconds() const; // the operations' sum
  // Sums by operation and by operation and shapes, the costliest first; memory by kind.
  Json to_json() const;
  // The costliest operations, and memory by kind, as lines for people.
  std::string table() const;
  // Chrome's trace format (chrome://tracing, Perfetto): an event an operation, a counter of memory by kind, and
  // to_json() under "temper".
  Json chrome_trace() const;
};

// Runs one step over `batch` operation by operation; `state` takes it.
StepProfile profile_step(const Model& model, TrainStep& step, TrainState& state, const HostBatch& batch);

} // namespace temper
