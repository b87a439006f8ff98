// Schedules that fall by a factor: each step as torch's ExponentialLR, or at intervals as its StepLR; never
// below min_learning_rate.
#include <cmath>

#include "temper/optim/schedules/all.h"

namespace temper {

Schedule make_exponential(const ScheduleConfig& config, const ScheduleSpan& span) {
  const double peak = span.learning_rate, least = config.min_learning_rate;
  if (config.decay_rate) {
    return [=, rate = *config.decay_rate](std::int64_t step) {
      return std::max(least, peak * std::pow(rate, static_cast<double>(step)));
    };
  }
  const double share = least > 0 ? least / peak : 0.01; // what is left at the run's end
  return [=, steps = static_cast<double>(span.steps)](std::int64_t step) {
    return peak * std::pow(share, std::min(1.0, static_cast<double>(step) / steps));
  };
}

Schedule make_step(const ScheduleConfig& config, const ScheduleSpan& span) {
  const auto every = config.decay_steps ? *config.decay_steps : std::max<std::int64_t>(1, (span.steps + 2) / 3);
  return [=, peak = span.learning_rate, least = config.min_learning_rate,
          rate = config.decay_rate.value_or(0.1)](std::int64_t step) {
    const std::int64_t drops = step / every;
    return std::max(least, peak * std::pow(rate, static_cast<double>(drops)));
  };
}

} // namespace temper
