#include "temper/optim/schedule.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <vector>

#include "temper/base/error.h"
#include "temper/config/nearest.h"
#include "temper/optim/schedules/all.h"

namespace temper {
namespace {

const RegisteredSchedule& registered(const std::string& name) {
  const auto found = std::find_if(std::begin(kSchedules), std::end(kSchedules),
                                  [&](const RegisteredSchedule& entry) { return name == entry.name; });
  if (found == std::end(kSchedules)) {
    std::vector<std::string> names;
    std::string all;
    for (const auto& entry : kSchedules) {
      names.emplace_back(entry.name);
      all += (all.empty() ? "" : ", ") + names.back();
    }
    throw ConfigError("lr_schedule.name: " + name + " is not one of " + all + did_you_mean(name, names));
  }
  return *found;
}

} // namespace

Schedule make_schedule(const ScheduleConfig& config, double learning_rate, int warmup_steps,
                       std::int64_t total_steps) {
  const auto& entry = registered(config.name);
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
