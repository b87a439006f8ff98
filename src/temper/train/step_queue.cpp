#include "temper/train/step_queue.h"

#include <utility>

namespace temper {

StepQueue::StepQueue(std::size_t memory_ceiling) : work_(memory_ceiling) {
}

void StepQueue::begin_step(std::int64_t num_tokens) {
  if (work_.would_measure(num_tokens)) {
    flush();
  }
  work_.before_step(num_tokens);
}

void StepQueue::push(const std::optional<mx::array>& midway, std::vector<mx::array> outputs) {
  flush();
  rest_ = std::move(outputs);
  if (midway && !work_.measures()) {
    mx::async_eval(*midway);
  } else {
    flush();
  }
}

void StepQueue::end_step() {
  work_.after_step();
}

void StepQueue::flush() {
  if (!rest_.empty()) {
    mx::async_eval(std::exchange(rest_, {}));
  }
}

SummedGradients sum_gradients(TrainStep& step, TrainState& state, StepQueue& queue,
                              const std::vector<HostBatch>& batches, float weight) {
  std::optional<SummedGradients> sum;
  for (const auto& batch : batches) {
    if (sum) {
      auto so_far = state.accumulator.arrays();
      so_far.push_back(sum->loss);
      queue.push(sum->midway, std::move(so_far));
    }
    auto part = step.gradients(state, batch, weight);
    ++state.micro_step;
    if (state.accumulator.empty()) {
      state.accumulator = std::move(part.gradients);
    } else {
      state.accumulator.add(part.gradients);
    }
    sum = SummedGradients{sum ? sum->loss + part.loss : part.loss, part.load_balance, part.midway};
  }
  return std::move(sum).value();
}

} // namespace temper
