// Learning-rate schedules: plain functions of the optimizer steps done so far, computed on the host.
// Sources: linear and cosine as transformers' optimization.py; cosine: Loshchilov & Hutter 2016,
// arXiv:1608.03983, without restarts; mlx-lm's names and arguments as mlx.optimizers.schedulers.
#pragma once

#include <cstdint>
#include <functional>

#include "temper/config/run_config.h"

namespace temper {

// Steps done -> learning rate of the next step.
using Schedule = std::function<double(std::int64_t)>;

// constant, linear and cosine start from `learning_rate` after their warm-up and end at
// `min_learning_rate` after `total_steps`. linear_schedule, cosine_decay, exponential_decay and step_decay
// take mlx-lm's `arguments`, their warm-up joined as mlx-lm joins it.
// Throws ConfigError for an unknown name or arguments that do not fit it.
Schedule make_schedule(const ScheduleConfig& config, double learning_rate, int warmup_steps,
                       std::int64_t total_steps);

} // namespace temper
