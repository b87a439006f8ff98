#include "temper/optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "temper/base/error.h"

namespace temper {
namespace {

using Arguments = std::vector<double>;

// Down from 1 to 0 over `progress` 0 .. 1.
double cosine(double progress) {
  return 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
}

// transformers' form: linear warm-up from warmup_init, then `shape` (1 .. 0 over the rest's progress).
Schedule over_run(const ScheduleConfig& config, double peak, int warmup, std::int64_t total,
                  double (*shape)(double)) {
  return [=, start = config.warmup_init, end = config.min_learning_rate](std::int64_t step) {
    const auto done = static_cast<double>(step);
    if (step < warmup) {
      return start + (peak - start) * done / warmup;
    }
    const double rest = std::max(1.0, static_cast<double>(total - warmup));
    return end + (peak - end) * shape(std::clamp((done - warmup) / rest, 0.0, 1.0));
  };
}

// mlx.optimizers.schedulers, by name.
Schedule mlx_schedule(const std::string& name, const Arguments& a) {
  const auto need = [&](std::size_t least, std::size_t most) {
    if (a.size() < least || a.size() > most) {
      throw ConfigError("lr_schedule.arguments: " + name + " takes " + std::to_string(least) +
                        (least == most ? "" : " to " + std::to_string(most)) + " numbers, " +
                        std::to_string(a.size()) + " given");
    }
  };
  if (name == "linear_schedule") {
    need(3, 3);
    return [=](std::int64_t step) {
      return a[0] + std::min(static_cast<double>(step), a[2]) * ((a[1] - a[0]) / a[2]);
    };
  }
  if (name == "cosine_decay") {
    need(2, 3);
    const double end = a.size() > 2 ? a[2] : 0.0;
    return [=](std::int64_t step) {
      return end + (a[0] - end) * cosine(std::min(static_cast<double>(step), a[1]) / a[1]);
    };
  }
  if (name == "exponential_decay") {
    need(2, 2);
    return [=](std::int64_t step) { return a[0] * std::pow(a[1], static_cast<double>(step)); };
  }
  if (name == "step_decay") {
    need(3, 3);
    return
        [=](std::int64_t step) { return a[0] * std::pow(a[1], std::floor(static_cast<double>(step) / a[2])); };
  }
  throw ConfigError(
      "lr_schedule.name: " + name +
      " is not one of constant, linear, cosine, linear_schedule, cosine_decay, exponential_decay, "
      "step_decay");
}

// As mlx-lm joins a warm-up: linear to the first argument over `warmup` steps, the schedule from warmup + 1.
Schedule with_mlx_warmup(Schedule schedule, const ScheduleConfig& config, int warmup) {
  if (warmup == 0) {
    return schedule;
  }
  return [=, start = config.warmup_init, peak = config.arguments.at(0)](std::int64_t step) {
    if (step <= warmup) {
      return start + (peak - start) * static_cast<double>(step) / warmup;
    }
    return schedule(step - (warmup + 1));
  };
}

} // namespace

Schedule make_schedule(const ScheduleConfig& config, double learning_rate, int warmup_steps,
                       std::int64_t total_steps) {
  const int warmup = config.warmup.value_or(warmup_steps);
  if (config.name == "constant") {
    return over_run(config, learning_rate, warmup, total_steps, [](double) { return 1.0; });
  }
  if (config.name == "linear") {
    return over_run(config, learning_rate, warmup, total_steps, [](double progress) { return 1.0 - progress; });
  }
  if (config.name == "cosine") {
    return over_run(config, learning_rate, warmup, total_steps, cosine);
  }
  return with_mlx_warmup(mlx_schedule(config.name, config.arguments), config, warmup);
}

} // namespace temper
