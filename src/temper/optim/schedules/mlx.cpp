// mlx.optimizers.schedulers under its own names, with their positional arguments, as mlx-lm calls them.
#include <cmath>

#include "temper/optim/schedules/all.h"

namespace temper {

Schedule make_mlx_linear_schedule(const ScheduleConfig& config, const ScheduleSpan&) {
  return [start = config.arguments.at(0), end = config.arguments.at(1),
          steps = config.arguments.at(2)](std::int64_t step) {
    return start + std::min(static_cast<double>(step), steps) * ((end - start) / steps);
  };
}

Schedule make_mlx_cosine_decay(const ScheduleConfig& config, const ScheduleSpan&) {
  const double end = config.arguments.size() > 2 ? config.arguments[2] : 0.0;
  return [=, start = config.arguments.at(0), steps = config.arguments.at(1)](std::int64_t step) {
    return end + (start - end) * cosine_shape(std::min(static_cast<double>(step), steps) / steps);
  };
}

Schedule make_mlx_exponential_decay(const ScheduleConfig& config, const ScheduleSpan&) {
  return [start = config.arguments.at(0), rate = config.arguments.at(1)](std::int64_t step) {
    return start * std::pow(rate, static_cast<double>(step));
  };
}

Schedule make_mlx_step_decay(const ScheduleConfig& config, const ScheduleSpan&) {
  return [start = config.arguments.at(0), rate = config.arguments.at(1),
          every = config.arguments.at(2)](std::int64_t step) {
    return start * std::pow(rate, std::floor(static_cast<double>(step) / every));
  };
}

} // namespace temper
