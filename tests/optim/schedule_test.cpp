// Against transformers, torch, NumPy and mlx-lm: tests/golden/make_optim_fixtures.py made the fixtures.
#include "temper/optim/schedule.h"

#include <doctest/doctest.h>

#include <filesystem>
#include <set>

#include "temper/base/error.h"
#include "temper/base/json.h"
#include "temper/config/run_config.h"
#include "temper/optim/schedules/all.h"

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

TEST_CASE("every schedule agrees with transformers, torch or NumPy, warm-up included; mlx-lm's with mlx-lm") {
  std::set<std::string> seen;
  for (const std::string file : {"torch.json", "mlx.json"}) {
    const auto fixtures = read_json(kFixtures / file);
    for (const auto& entry : fixtures.at("schedules")) {
      const auto config = run_config_from_json(
          {{"lr_schedule", entry.at("lr_schedule")}, {"learning_rate", entry.at("learning_rate")}});
      seen.insert(config.lr_schedule.name);
      compare(make_schedule(config.lr_schedule, config.learning_rate, entry.at("warmup_steps"),
                            entry.at("total_steps")),
              entry, file == "mlx.json" ? 1e-5 : 1e-9);
    }
  }
  for (const auto& registered : kSchedules) {
    CHECK_MESSAGE(seen.contains(registered.name), std::string(registered.name));
  }
}

TEST_CASE("lr_schedule.warmup wins over warmup_steps") {
  auto config = named("constant");
  CHECK(make_schedule(config, 1.0, 4, 10)(1) == doctest::Approx(0.25));
  config.warmup = 2;
  CHECK(make_schedule(config, 1.0, 4, 10)(1) == doctest::Approx(0.5));
}

TEST_CASE("a schedule ends at its minimum and stays there") {
  for (const std::string name : {"linear", "cosine", "polynomial", "exponential", "wsd", "cosine_restarts"}) {
    CAPTURE(name);
    auto config = named(name);
    config.min_learning_rate = 0.1;
    config.decay_share = 0.5;
    const auto schedule = make_schedule(config, 1.0, 0, 10);
    CHECK(schedule(0) == doctest::Approx(1.0));
    CHECK(schedule(9) < 1.0);
    CHECK(schedule(10) == doctest::Approx(0.1));
    CHECK(schedule(1000) == doctest::Approx(0.1));
  }
}

TEST_CASE("without their options exponential ends at a hundredth, step drops twice to a hundredth") {
  const auto exponential = make_schedule(named("exponential"), 1.0, 0, 100);
  CHECK(exponential(50) == doctest::Approx(0.1));
  CHECK(exponential(100) == doctest::Approx(0.01));
  const auto step = make_schedule(named("step"), 1.0, 0, 90);
  CHECK(step(29) == doctest::Approx(1.0));
  CHECK(step(30) == doctest::Approx(0.1));
  CHECK(step(89) == doctest::Approx(0.01));
  CHECK(make_schedule(named("step"), 1.0, 0, 1)(0) == doctest::Approx(1.0));
}

TEST_CASE("restarts: growing cycles fill the run") {
  auto config = named("cosine_restarts");
  config.cycles = 3;
  config.period_multiplier = 2;
  const auto schedule = make_schedule(config, 1.0, 0, 70); // cycles of 10, 20, 40
  for (const std::int64_t start : {0, 10, 30}) {
    CHECK(schedule(start) == doctest::Approx(1.0));
  }
  CHECK(schedule(20) == doctest::Approx(0.5));
  CHECK(schedule(50) == doctest::Approx(0.5));
  CHECK(schedule(70) == doctest::Approx(0.0).scale(1.0));
}

TEST_CASE("wsd: a decay as long as the run or longer than what the warm-up leaves") {
  auto config = named("wsd");
  config.decay_share = 1.0;
  const auto schedule = make_schedule(config, 1.0, 5, 10);
  CHECK(schedule(4) == doctest::Approx(0.8));
  CHECK(schedule(5) == doctest::Approx(1.0));
  CHECK(schedule(6) == doctest::Approx(0.8));
  CHECK(schedule(10) == doctest::Approx(0.0).scale(1.0));
  config.decay_share = 0.0;
  CHECK(make_schedule(config, 1.0, 5, 10)(9) == doctest::Approx(1.0));
}

TEST_CASE("points: the warm-up leads to where the points are by then") {
  auto config = named("points");
  config.points = Json::parse(R"([{"step": 0, "learning_rate": 0.0}, {"step": 100, "learning_rate": 1.0}])");
  config.warmup = 10;
  config.warmup_init = 0.2;
  const auto schedule = make_schedule(config, 1e-5, 0, 100);
  CHECK(schedule(0) == doctest::Approx(0.2));
  CHECK(schedule(5) == doctest::Approx(0.15));
  CHECK(schedule(10) == doctest::Approx(0.1));
  CHECK(schedule(55) == doctest::Approx(0.55));
  CHECK(schedule(500) == doctest::Approx(1.0));
}

TEST_CASE("a warm-up as long as the run never divides by zero") {
  const auto schedule = make_schedule(named("cosine"), 1.0, 10, 10);
  CHECK(schedule(5) == doctest::Approx(0.5));
  CHECK(schedule(10) == doctest::Approx(1.0));
}

TEST_CASE("unknown names and wrong numbers of arguments are refused") {
  CHECK_THROWS_WITH_AS(make_schedule(named("cosin"), 1.0, 0, 10),
                       "lr_schedule.name: cosin is not one of constant, linear, cosine, cosine_restarts, "
                       "exponential, step, polynomial, wsd, points, linear_schedule, cosine_decay, "
                       "exponential_decay, step_decay; did you mean 'cosine'?",
                       ConfigError);
  CHECK_THROWS_AS(make_schedule(named("cosine_decay"), 1.0, 0, 10), ConfigError);
  CHECK_THROWS_AS(make_schedule(named("cosine_decay", {1, 2, 3, 4}), 1.0, 0, 10), ConfigError);
  CHECK_THROWS_AS(make_schedule(named("linear_schedule", {1, 2}), 1.0, 0, 10), ConfigError);
  CHECK_THROWS_AS(make_schedule(named("step_decay", {1, 2}), 1.0, 0, 10), ConfigError);
  CHECK_THROWS_AS(make_schedule(named("exponential_decay", {1}), 1.0, 0, 10), ConfigError);
}
