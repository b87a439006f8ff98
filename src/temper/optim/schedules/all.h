// Every schedule: its maker, and its line in the registry. The options are in temper/config/schedule_config.h.
#pragma once

#include <algorithm>
#include <cstdint>

#include "temper/config/schedule_config.h"
#include "temper/optim/schedule.h"

namespace temper {

// What a schedule knows of its run.
struct ScheduleSpan {
  double learning_rate = 0.0;
  std::int64_t warmup_steps = 0;
  std::int64_t steps = 1; // after the warm-up, at least 1
};

// The result counts steps from the end of the warm-up, which leads to its value at 0.
using MakeSchedule = Schedule (*)(const ScheduleConfig&, const ScheduleSpan&);

Schedule make_constant(const ScheduleConfig& config, const ScheduleSpan& span);
Schedule make_linear(const ScheduleConfig& config, const ScheduleSpan& span);
Schedule make_cosine(const ScheduleConfig& config, const ScheduleSpan& span);
Schedule make_cosine_restarts(const ScheduleConfig& config, const ScheduleSpan& span);
Schedule make_exponential(const ScheduleConfig& config, const ScheduleSpan& span);
Schedule make_step(const ScheduleConfig& config, const ScheduleSpan& span);
Schedule make_polynomial(const ScheduleConfig& config, const ScheduleSpan& span);
Schedule make_wsd(const ScheduleConfig& config, const ScheduleSpan& span);
Schedule make_points(const ScheduleConfig& config, const ScheduleSpan& span);
Schedule make_mlx_linear_schedule(const ScheduleConfig& config, const ScheduleSpan& span);
Schedule make_mlx_cosine_decay(const ScheduleConfig& config, const ScheduleSpan& span);
Schedule make_mlx_exponential_decay(const ScheduleConfig& config, const ScheduleSpan& span);
Schedule make_mlx_step_decay(const ScheduleConfig& config, const ScheduleSpan& span);

struct RegisteredSchedule {
  const char* name;
  MakeSchedule make;
  // mlx-lm starts a schedule one step after its warm-up has reached the full learning rate.
  int steps_at_peak = 0;
};

inline constexpr RegisteredSchedule kSchedules[] = {
    {"constant", make_constant},
    {"linear", make_linear},
    {"cosine", make_cosine},
    {"cosine_restarts", make_cosine_restarts},
    {"exponential", make_exponential},
    {"step", make_step},
    {"polynomial", make_polynomial},
    {"wsd", make_wsd},
    {"points", make_points},
    {"linear_schedule", make_mlx_linear_schedule, 1},
    {"cosine_decay", make_mlx_cosine_decay, 1},
    {"exponential_decay", make_mlx_exponential_decay, 1},
    {"step_decay", make_mlx_step_decay, 1},
};

// Down from 1 to 0 over `progress` 0 .. 1, along half a cosine.
double cosine_shape(double progress);

// From the learning rate to min_learning_rate over the steps, along `shape` (1 .. 0 over progress 0 .. 1).
template <class Shape>
Schedule along(const ScheduleConfig& config, const ScheduleSpan& span, Shape shape) {
  return [=, peak = span.learning_rate, end = config.min_learning_rate,
          steps = static_cast<double>(span.steps)](std::int64_t step) {
    return end + (peak - end) * shape(std::min(1.0, static_cast<double>(step) / steps));
  };
}

} // namespace temper
