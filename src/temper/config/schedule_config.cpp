#include "temper/config/schedule_config.h"

#include <algorithm>
#include <iterator>

#include <fmt/format.h>

#include "temper/base/error.h"
#include "temper/config/nearest.h"

namespace temper {
namespace {

// The arguments that mlx's own schedule of that name takes.
struct ScheduleArity {
  const char* name;
  std::size_t least, most;
  std::size_t steps_at; // which of them counts steps; `most`: none
};
constexpr ScheduleArity kArities[] = {
    {"linear_schedule", 3, 3, 2},
    {"cosine_decay", 2, 3, 1},
    {"exponential_decay", 2, 2, 2},
    {"step_decay", 3, 3, 2},
};

void check_arguments(const ScheduleConfig& config) {
  const auto arity = std::find_if(std::begin(kArities), std::end(kArities),
                                  [&](const ScheduleArity& a) { return config.name == a.name; });
  if (arity == std::end(kArities)) {
    return;
  }
  const std::size_t count = config.arguments.size();
  if (count < arity->least || count > arity->most) {
    const std::string expected = arity->least == arity->most
                                     ? fmt::format("{}", arity->least)
                                     : fmt::format("{} or {}", arity->least, arity->most);
    throw ConfigError(
        fmt::format("lr_schedule.arguments: {} takes {} numbers, got {}", config.name, expected, count));
  }
  if (arity->steps_at < count && config.arguments[arity->steps_at] < 1) {
    throw ConfigError(
        fmt::format("lr_schedule.arguments: {}'s number {} counts steps and must be at least 1, got {}",
                    config.name, arity->steps_at + 1, config.arguments[arity->steps_at]));
  }
}

SchedulePoint read_point(const Json& json, std::size_t index) {
  const Json step = json.value("step", Json());
  const Json rate = json.value("learning_rate", Json());
  if (!step.is_number_integer() || step.get<std::int64_t>() < 0) {
    throw ConfigError(fmt::format("lr_schedule.points[{}]: a step is a whole number of at least 0, got {}",
                                  index, dump(step)));
  }
  if (!rate.is_number() || rate.get<double>() < 0) {
    throw ConfigError(fmt::format("lr_schedule.points[{}]: a learning rate is a number of at least 0, got {}",
                                  index, dump(rate)));
  }
  return {step.get<std::int64_t>(), rate.get<double>()};
}

} // namespace

std::vector<SchedulePoint> schedule_points(const ScheduleConfig& config) {
  const Json list = config.points.is_object() ? Json::array({config.points}) : config.points;
  if (!list.is_array() || list.empty()) {
    throw ConfigError("lr_schedule.points: points needs some, such as [[0, 1e-4], [100, 1e-3], [1000, 0]]");
  }
  std::vector<SchedulePoint> points;
  for (const Json& json : list) {
    points.push_back(read_point(json, points.size()));
    if (points.size() > 1 && points.back().step <= points[points.size() - 2].step) {
      throw ConfigError(fmt::format("lr_schedule.points: step {} comes after step {}; steps must rise",
                                    points.back().step, points[points.size() - 2].step));
    }
  }
  return points;
}

void check_schedule(const ScheduleConfig& config, double learning_rate) {
  check_arguments(config);
  if (config.name == "points") {
    schedule_points(config);
  }
  if (config.min_learning_rate > learning_rate) {
    throw ConfigError(fmt::format("lr_schedule.min_learning_rate {} is above learning_rate {}",
                                  config.min_learning_rate, learning_rate));
  }
}

} // namespace temper
