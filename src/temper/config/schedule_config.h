// What a learning-rate schedule is told: mlx-lm's `lr_schedule`, with the list of its keys. The schedules
// themselves are in temper/optim/schedules/.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "temper/base/json.h"
#include "temper/config/field.h"

namespace temper {

// Written as a bare name it uses learning_rate, the run's steps and warmup_steps.
struct ScheduleConfig {
  std::string name = "constant";
  std::vector<double> arguments;      // of mlx-lm's own schedules
  std::optional<int> warmup;          // steps
  double warmup_init = 0.0;           // learning rate at step 0 of the warm-up
  double min_learning_rate = 0.0;     // where a schedule ends
  int cycles = 4;                     // cosine_restarts: so many fill the run
  std::optional<int> period;          // cosine_restarts: steps of the first cycle, instead
  double period_multiplier = 1.0;     // cosine_restarts: each cycle so much longer than the one before
  std::optional<double> decay_rate;   // exponential: a step; step: a drop
  std::optional<int> decay_steps;     // step
  double power = 2.0;                 // polynomial
  double decay_share = 0.1;           // wsd: of the run's steps
  std::string decay_shape = "linear"; // wsd
  Json points = nullptr;              // points

  void list(FieldList& list) {
    using Names = std::vector<std::string>;
    const auto of = [&](const char* key, auto* member, const char* help, const Names& names) -> Field& {
      return list.add(key, member, help).only_for("lr_schedule.name", names);
    };
    list.add("name", &name,
             "how the learning rate moves (docs/guide/optimizers.md); the last four are mlx-lm's")
        .one_of({"constant", "linear", "cosine", "cosine_restarts", "exponential", "step", "polynomial", "wsd",
                 "points", "linear_schedule", "cosine_decay", "exponential_decay", "step_decay"})
        .alias("lr_schedule");
    of("arguments", &arguments, "mlx-lm's arguments of its schedule",
       {"linear_schedule", "cosine_decay", "exponential_decay", "step_decay"})
        .at_least(0)
        .commas();
    list.add("warmup", &warmup, "steps of linear warm-up").at_least(0);
    list.add("warmup_init", &warmup_init, "learning rate that the warm-up starts from").at_least(0);
    of("min_learning_rate", &min_learning_rate, "where the schedule ends",
       {"linear", "cosine", "cosine_restarts", "exponential", "step", "polynomial", "wsd"})
        .at_least(0);
    of("cycles", &cycles, "how many cycles fill the run", {"cosine_restarts"})
        .at_least(1)
        .at_most(1000)
        .unless("lr_schedule.period");
    of("period", &period, "steps of the first cycle", {"cosine_restarts"}).at_least(1);
    of("period_multiplier", &period_multiplier, "each cycle's length by that of the one before",
       {"cosine_restarts"})
        .at_least(1)
        .at_most(10);
    of("decay_rate", &decay_rate,
       "exponential: factor a step; none: what reaches min_learning_rate, or a hundredth, at the end. step: "
       "factor a drop; none: 0.1",
       {"exponential", "step"})
        .above(0)
        .at_most(1);
    of("decay_steps", &decay_steps, "steps from drop to drop; none: a third of the run", {"step"}).at_least(1);
    of("power", &power, "of the rest of the run; 1 is linear", {"polynomial"}).above(0);
    of("decay_share", &decay_share, "share of the run's steps that decay, at its end", {"wsd"})
        .at_least(0)
        .at_most(1);
    of("decay_shape", &decay_shape, "how they decay", {"wsd"}).one_of({"linear", "cosine", "1-sqrt"});
    of("points", &points,
       "learning rates by step, a line between each two: [[0, 1e-4], [100, 1e-3], [1000, 0]]", {"points"})
        .parts({"step", "learning_rate"})
        .in_order()
        .metavar("JSON");
  }
};

struct SchedulePoint {
  std::int64_t step = 0; // steps done
  double learning_rate = 0.0;
};

// `config.points`, their steps rising. Throws ConfigError unless they are.
std::vector<SchedulePoint> schedule_points(const ScheduleConfig& config);

// What ranges don't say: arguments that don't fit mlx-lm's schedule, points that are none, an end above
// `learning_rate`. Throws ConfigError.
void check_schedule(const ScheduleConfig& config, double learning_rate);

} // namespace temper
