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

} // namespace temper
