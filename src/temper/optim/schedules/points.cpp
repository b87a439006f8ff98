// Points given by hand, a straight line between each two; level before the first and after the last. They count
// the run's steps, warm-up included.
#include <algorithm>

#include "temper/optim/schedules/all.h"

namespace temper {

Schedule make_points(const ScheduleConfig& config, const ScheduleSpan& span) {
  return [points = schedule_points(config), warmup = span.warmup_steps](std::int64_t step) {
    const auto at = step + warmup;
    const auto next = std::find_if(points.begin(), points.end(), [&](const auto& p) { return p.step > at; });
    if (next == points.begin()) {
      return next->learning_rate;
    }
    const auto& last = *std::prev(next);
    if (next == points.end()) {
      return last.learning_rate;
    }
    const double share = static_cast<double>(at - last.step) / static_cast<double>(next->step - last.step);
    return last.learning_rate + (next->learning_rate - last.learning_rate) * share;
  };
}

} // namespace temper
