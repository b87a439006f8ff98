// Against transformers and mlx-lm: tests/golden/make_optim_fixtures.py made the fixtures.
#include "temper/optim/schedule.h"

#include <doctest/doctest.h>

#include <filesystem>

#include "temper/base/error.h"
#include "temper/base/json.h"

using namespace temper;

namespace {

const std::filesystem::path kFixtures = std::filesystem::path(TEMPER_TEST_DATA) / "optim";

void compare(const Schedule& schedule, const Json& entry, double epsilon) {
  CAPTURE(entry.dump());
  CHECK_FALSE(entry.at("learning_rates").empty());
  for (const auto& [step, rate] : entry.at("learning_rates").items()) {
    CAPTURE(step);
    CHECK(schedule(std::stoll(step)) == doctest::Approx(rate.get<double>()).epsilon(epsilon).scale(1e-3));
  }
}

ScheduleConfig named(const std::string& name, std::vector<double> arguments = {}) {
  ScheduleConfig config;
  config.name = name;
  config.arguments = std::move(arguments);
  return config;
}

} // namespace

TEST_CASE("constant, linear and cosine agree with transformers, warm-up included") {
  const auto schedules = read_json(kFixtures / "torch.json").at("schedules");
  CHECK(schedules.size() == 8);
  for (const auto& entry : schedules) {
    auto config = named(entry.at("name"));
    config.min_learning_rate = entry.at("min_learning_rate");
    compare(make_schedule(config, entry.at("learning_rate"), entry.at("warmup_steps"), entry.at("total_steps")),
            entry, 1e-9);
  }
}

TEST_CASE("mlx-lm's schedules agree with mlx-lm, the way it joins a warm-up included") {
  const auto schedules = read_json(kFixtures / "mlx.json").at("schedules");
  CHECK(schedules.size() == 8);
  for (const auto& entry : schedules) {
    auto config = named(entry.at("name"), entry.at("arguments"));
    config.warmup = entry.value("warmup", 0);
    config.warmup_init = entry.value("warmup_init", 0.0);
    compare(make_schedule(config, 0.5, 0, 110), entry, 1e-5);
  }
}

TEST_CASE("lr_schedule.warmup wins over warmup_steps") {
  auto config = named("constant");
  CHECK(make_schedule(config, 1.0, 4, 10)(1) == doctest::Approx(0.25));
  config.warmup = 2;
  CHECK(make_schedule(config, 1.0, 4, 10)(1) == doctest::Approx(0.5));
}

TEST_CASE("a schedule ends at its minimum and stays there") {
  for (const std::string name : {"linear", "cosine"}) {
    auto config = named(name);
    config.min_learning_rate = 0.1;
    const auto schedule = make_schedule(config, 1.0, 0, 10);
    CHECK(schedule(0) == doctest::Approx(1.0));
    CHECK(schedule(10) == doctest::Approx(0.1));
    CHECK(schedule(1000) == doctest::Approx(0.1));
  }
}

TEST_CASE("a warm-up as long as the run never divides by zero") {
  const auto schedule = make_schedule(named("cosine"), 1.0, 10, 10);
  CHECK(schedule(5) == doctest::Approx(0.5));
  CHECK(schedule(10) == doctest::Approx(1.0));
}

TEST_CASE("unknown names and wrong numbers of arguments are refused") {
  CHECK_THROWS_AS(make_schedule(named("cosin"), 1.0, 0, 10), ConfigError);
  CHECK_THROWS_AS(make_schedule(named("cosine_decay"), 1.0, 0, 10), ConfigError);
  CHECK_THROWS_AS(make_schedule(named("cosine_decay", {1, 2, 3, 4}), 1.0, 0, 10), ConfigError);
  CHECK_THROWS_AS(make_schedule(named("linear_schedule", {1, 2}), 1.0, 0, 10), ConfigError);
  CHECK_THROWS_AS(make_schedule(named("step_decay", {1, 2}), 1.0, 0, 10), ConfigError);
  CHECK_THROWS_AS(make_schedule(named("exponential_decay", {1}), 1.0, 0, 10), ConfigError);
}
