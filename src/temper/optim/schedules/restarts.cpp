// Cosine with warm restarts: Loshchilov & Hutter 2016, arXiv:1608.03983, section 3. Cycles that fill the run as
// transformers has them; a given first period as torch's CosineAnnealingWarmRestarts.
#include <cmath>
#include <limits>

#include "temper/optim/schedules/all.h"

namespace temper {
namespace {

// Cycles may end between two steps; what rounding leaves of a cycle is none of it.
constexpr double kRounding = 1e-9;

// How far into its cycle `step` is, 0 .. 1.
double cycle_progress(double step, double period, double multiplier) {
  if (multiplier == 1.0) {
    const double cycles = step / period;
    return std::max(0.0, cycles - std::floor(cycles + kRounding));
  }
  double start = 0;
  while (step >= start + period * (1.0 - kRounding)) {
    start += period;
    period *= multiplier;
  }
  return std::max(0.0, (step - start) / period);
}

} // namespace

Schedule make_cosine_restarts(const ScheduleConfig& config, const ScheduleSpan& span) {
  const double multiplier = config.period_multiplier;
  const auto steps = static_cast<double>(span.steps);
  double cycles = 0; // in units of the first
  for (int i = 0; i < config.cycles; ++i) {
    cycles = cycles * multiplier + 1.0;
  }
  const double period = config.period ? *config.period : steps / cycles;
  const double end = config.period ? std::numeric_limits<double>::infinity() : steps;
  return [=, peak = span.learning_rate, least = config.min_learning_rate](std::int64_t step) {
    const auto done = static_cast<double>(step);
    const double progress = done >= end ? 1.0 : cycle_progress(done, period, multiplier);
    return least + (peak - least) * cosine_shape(progress);
  };
}

} // namespace temper
