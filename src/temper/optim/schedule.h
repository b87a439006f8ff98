// Learning-rate schedules: plain functions of the optimizer steps done so far, computed on the host.
// Each file of temper/optim/schedules/ names its source.
#pragma once

#include <cstdint>
#include <functional>

#include "temper/config/schedule_config.h"

namespace temper {

// Steps done -> learning rate of the next step.
using Schedule = std::function<double(std::int64_t)>;

// The schedule of that name for a run of `total_steps`, a linear warm-up before it: config.warmup steps, or
// `warmup_steps`. mlx-lm's own (with `arguments`) don't look at learning rate and steps.
// Throws ConfigError for an unknown name or options that do not fit it.
Schedule make_schedule(const ScheduleConfig& config, double learning_rate, int warmup_steps,
                       std::int64_t total_steps);

} // namespace temper
