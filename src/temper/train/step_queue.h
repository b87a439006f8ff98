// Handing steps to the device so that it need not wait for the host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "temper/nn/device.h"
#include "temper/nn/params.h"
#include "temper/train/step.h"

namespace temper {

// MLX's host takes some milliseconds to build a step's graph, and a GPU has no more in flight than that takes
// it. So a part of a step goes over in two: as far as the middle of its forward pass when it is built, the rest
// when the next one is, behind which that one's first half follows at once. Building then falls into a time
// when much is in flight. What is computed is the same, bit for bit.
class StepQueue {
 public:
  // A WorkLimit with this ceiling bounds what is in flight.
  explicit StepQueue(std::size_t memory_ceiling = 0);

  // Before the graph of a step is built whose largest part has `num_tokens`, padding included.
  void begin_step(std::int64_t num_tokens);
  // Hands over the rest of the part before; then of this one, whose results are `outputs`, what leads to
  // `midway`, or all of it if there is none. Throws what MLX throws where work cannot be handed over.
  void push(const std::optional<mx::array>& midway, std::vector<mx::array> outputs);
  // After the step's last push().
  void end_step();
  // Hands over what is left.
  void flush();

 private:
  WorkLimit work_;
  std::vector<mx::array> rest_;
};

// Of a step's micro-batches.
struct SummedGradients {
  mx::array loss;                        // the parts' sum
  std::optional<mx::array> load_balance; // the last one's
  std::optional<mx::array> midway;       // the last one's, for the push() that is the caller's
};

// Adds the gradients of `batches`, of which there is one at least, to state.accumulator, one after the other,
// so that what a micro-batch takes is gone before the next one's: all but the last are handed over. Each
// supervised token weighs `weight`. Lazy otherwise.
SummedGradients sum_gradients(TrainStep& step, TrainState& state, StepQueue& queue,
                              const std::vector<HostBatch>& batches, float weight);

} // namespace temper
