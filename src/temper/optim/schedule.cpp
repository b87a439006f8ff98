#include "temper/optim/schedule.h"

#include <algorithm>
#include <string>
#include <vector>

#include "temper/base/error.h"
#include "temper/optim/registered.h"
#include "temper/optim/schedules/all.h"

namespace temper {
Schedule make_schedule(const ScheduleConfig& config, double learning_rate, int warmup_steps,
                       std::int64_t total_steps) {
  const auto& entry = registered(kSchedules, "lr_schedule.name", config.name);
  check_schedule(config, learning_rate);
  const std::int64_t warmup = config.warmup.value_or(warmup_steps);
  auto schedule = entry.make(config, {learning_rate, warmup, std::max<std::int64_t>(1, total_steps - warmup)});
  if (warmup == 0) {
    return schedule;
  }
  return [=, start = config.warmup_init, peak = schedule(0),
          begin = warmup + entry.steps_at_peak](std::int64_t step) {
    return step < begin ? start + (peak - start) * static_cast<double>(step) / static_cast<double>(warmup)
                        : schedule(step - begin);
  };
}

} // namespace temper
