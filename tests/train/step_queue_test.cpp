#include "temper/train/step_queue.h"

#include <doctest/doctest.h>

using namespace temper;

namespace {

bool is_waiting(const mx::array& x) {
  return x.status() == mx::array::Status::unscheduled;
}

// A value half way to a result, and the result.
struct Part {
  mx::array midway = mx::ones({4}) * mx::array(2.0F);
  mx::array result = midway + mx::array(1.0F);
};

} // namespace

TEST_CASE("a step's second half is handed over with the next step's first") {
  StepQueue queue;
  Part first;
  Part second;
  queue.begin_step(4);
  queue.push(first.midway, {first.result});
  queue.end_step();
  CHECK(!is_waiting(first.midway));
  CHECK(is_waiting(first.result));
  queue.push(second.midway, {second.result});
  CHECK(!is_waiting(first.result));
  CHECK(!is_waiting(second.midway));
  CHECK(is_waiting(second.result));
  queue.flush();
  CHECK(!is_waiting(second.result));
  first.result.eval();
  CHECK(first.result.data<float>()[0] == 3.0F);
}

TEST_CASE("without a middle a step is handed over at once") {
  StepQueue queue;
  Part part;
  queue.push(std::nullopt, {part.result});
  CHECK(!is_waiting(part.result));
}

TEST_CASE("results that somebody has read meanwhile are no trouble") {
  StepQueue queue;
  Part part;
  queue.push(part.midway, {part.result});
  part.result.eval();
  queue.flush();
  CHECK(part.result.data<float>()[3] == 3.0F);
}
