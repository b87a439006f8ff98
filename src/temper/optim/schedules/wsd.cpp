// Warm-up, stable, decay: Hu et al. 2024, arXiv:2404.06395, section 4; the decay's shapes are transformers',
// 1-sqrt is Hägele et al. 2024, arXiv:2405.18392.
#include <cmath>

#include "temper/optim/schedules/all.h"

namespace temper {

Schedule make_wsd(const ScheduleConfig& config, const ScheduleSpan& span) {
  const double run = static_cast<double>(span.steps + span.warmup_steps);
  const auto decay = std::min(span.steps, static_cast<std::int64_t>(std::llround(config.decay_share * run)));
  double (*shape)(double) = [](double progress) { return 1.0 - progress; };
  if (config.decay_shape == "cosine") {
    shape = cosine_shape;
  } else if (config.decay_shape == "1-sqrt") {
    shape = [](double progress) { return 1.0 - std::sqrt(progress); };
  }
  const auto falling = along(config, {span.learning_rate, 0, std::max<std::int64_t>(1, decay)}, shape);
  return [=, stable = span.steps - decay](std::int64_t step) {
    return falling(std::max<std::int64_t>(0, step - stable));
  };
}

} // namespace temper
