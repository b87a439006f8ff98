// Schedules along one curve over the run: constant, linear, cosine (Loshchilov & Hutter 2016, arXiv:1608.03983,
// without restarts), polynomial. As transformers' optimization.py has them.
#include <cmath>
#include <numbers>

#include "temper/optim/schedules/all.h"

namespace temper {

double cosine_shape(double progress) {
  return 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
}

Schedule make_constant(const ScheduleConfig&, const ScheduleSpan& span) {
  return [rate = span.learning_rate](std::int64_t) { return rate; };
}

Schedule make_linear(const ScheduleConfig& config, const ScheduleSpan& span) {
  return along(config, span, [](double progress) { return 1.0 - progress; });
}

Schedule make_cosine(const ScheduleConfig& config, const ScheduleSpan& span) {
  return along(config, span, cosine_shape);
}

Schedule make_polynomial(const ScheduleConfig& config, const ScheduleSpan& span) {
  return along(config, span,
               [power = config.power](double progress) { return std::pow(1.0 - progress, power); });
}

} // namespace temper
