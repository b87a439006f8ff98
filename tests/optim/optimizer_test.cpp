// Against torch and MLX: tests/golden/make_optim_fixtures.py made the fixtures.
#include "temper/optim/optimizer.h"

#include <filesystem>

#include "nn/support.h"
#include "temper/base/error.h"
#include "temper/base/json.h"

using namespace temper;
using namespace temper::test;

namespace {

const std::filesystem::path kFixtures = std::filesystem::path(TEMPER_TEST_DATA) / "optim";

mx::array to_array(const Json& rows) {
  std::vector<float> numbers;
  mx::Shape shape{static_cast<int>(rows.size())};
  for (const auto& row : rows) {
    if (row.is_array()) {
      const auto part = row.get<std::vector<float>>();
      numbers.insert(numbers.end(), part.begin(), part.end());
    } else {
      numbers.push_back(row.get<float>());
    }
  }
  if (rows.front().is_array()) {
    shape.push_back(static_cast<int>(rows.front().size()));
  }
  return mx::array(numbers.begin(), shape, mx::float32);
}

Params to_params(const Json& json) {
  Params params;
  for (const auto& [name, rows] : json.items()) {
    params.emplace(name, to_array(rows));
  }
  return params;
}

Optimizer from_json(const Json& json) {
  OptimizerConfig config;
  config.betas = json.value("betas", config.betas);
  config.eps = json.value("eps", config.eps);
  config.weight_decay = json.value("weight_decay", 0.0);
  config.momentum = json.value("momentum", 0.0);
  config.nesterov = json.value("nesterov", false);
  config.bias_correction = json.value("bias_correction", true);
  return make_optimizer(json.at("name"), config);
}

// What `visit` sees after each step: the steps done and the parameters.
void run(const Optimizer& optimizer, const Json& problem, const Json& rates,
         const std::function<void(int, const Params&)>& visit) {
  auto params = to_params(problem.at("parameters"));
  auto state = optimizer.initial_state(params);
  int count = 0;
  for (const auto& gradients : problem.at("gradients")) {
    std::tie(params, state) = optimizer.step(params, to_params(gradients), state,
                                             mx::array(rates[static_cast<std::size_t>(count)].get<float>()),
                                             mx::array(count, mx::int32));
    mx::eval(values(params));
    mx::eval(values(state));
    visit(++count, params);
  }
}

// `names`: the tensors whose trajectories are compared.
void compare_with(const std::string& file, const std::vector<std::string>& names) {
  const auto problem = read_json(kFixtures / file);
  for (const auto& entry : problem.at("optimizers")) {
    const auto& snapshots = entry.at("snapshots");
    int compared = 0;
    run(from_json(entry), problem, entry.at("learning_rates"), [&](int step, const Params& params) {
      const auto it = snapshots.find(std::to_string(step));
      if (it != snapshots.end()) {
        for (const auto& name : names) {
          CAPTURE(entry.at("name").get<std::string>());
          CAPTURE(step);
          CAPTURE(name);
          CHECK(max_difference(params.at(name), to_array(it->at(name))) < 2e-6F);
          ++compared;
        }
      }
    });
    CHECK(compared == 5 * static_cast<int>(names.size()));
  }
}

} // namespace

TEST_CASE("fifty steps of adam, adamw and sgd agree with torch") {
  compare_with("torch.json", {"matrix.weight", "matrix.bias"});
}

TEST_CASE("fifty steps agree with MLX, with and without bias correction") {
  compare_with("mlx.json", {"matrix.weight"}); // MLX's AdamW decays biases, Temper's does not
}

TEST_CASE("rule 6: Adam corrects its bias") {
  CHECK(OptimizerConfig().bias_correction);
  // Corrected, a first step has length learning_rate whatever the gradient; uncorrected it is 3.16 times that.
  const Params params{{"w.weight", mx::zeros({3, 1})}};
  const Params gradients{{"w.weight", mx::array({1e-3F, 1.0F, -50.0F}, {3, 1})}};
  for (const bool corrected : {true, false}) {
    OptimizerConfig config;
    config.bias_correction = corrected;
    const auto optimizer = make_optimizer("adam", config);
    const auto moved =
        optimizer
            .step(params, gradients, optimizer.initial_state(params), mx::array(0.01F), mx::array(0, mx::int32))
            .first.at("w.weight");
    const float length = corrected ? 0.01F : 0.01F * 0.1F / std::sqrt(0.001F);
    CHECK(relative_difference(moved, mx::array({-length, -length, length}, {3, 1})) < 1e-3F);
  }
}

TEST_CASE("rule 6: AdamW decays no norms or biases") {
  const auto vector = mx::ones({4});
  const auto matrix = mx::ones({4, 4});
  CHECK_FALSE(decays("model.norm.weight", vector));
  CHECK_FALSE(decays("model.layers.0.self_attn.q_proj.bias", vector));
  CHECK_FALSE(decays("experts.bias", matrix));
  CHECK(decays("model.layers.0.self_attn.q_proj.weight", matrix));
  CHECK(decays("model.layers.0.self_attn.q_proj.lora_a", matrix));

  Params params{{"norm.weight", vector}, {"q.bias", vector}, {"q.weight", matrix}};
  Params gradients;
  for (const auto& [name, array] : params) {
    gradients.emplace(name, mx::zeros_like(array));
  }
  OptimizerConfig config;
  config.weight_decay = 0.1;
  for (const std::string name : {"adamw", "sgd", "adam"}) {
    CAPTURE(name);
    const auto optimizer = make_optimizer(name, config);
    const auto moved =
        optimizer
            .step(params, gradients, optimizer.initial_state(params), mx::array(0.5F), mx::array(0, mx::int32))
            .first;
    CHECK(same_bits(moved.at("norm.weight"), vector));
    CHECK(same_bits(moved.at("q.bias"), vector));
    const float kept = name == "adam" ? 1.0F : 1.0F - 0.5F * 0.1F; // adam has no decay
    CHECK(max_difference(moved.at("q.weight"), mx::full({4, 4}, kept, mx::float32)) < 1e-6F);
  }
}

TEST_CASE("state is fp32 whatever the parameters are, and only what the optimizer needs") {
  const Params params{{"w", mx::zeros({2, 2}, mx::bfloat16)}};
  OptimizerConfig config;
  CHECK(make_optimizer("sgd", config).initial_state(params).empty());
  config.momentum = 0.9;
  CHECK(make_optimizer("sgd", config).initial_state(params).size() == 1);
  const auto state = make_optimizer("adamw", config).initial_state(params);
  CHECK(state.size() == 2);
  CHECK(state.at("m.w").dtype() == mx::float32);
  CHECK(state.at("v.w").dtype() == mx::float32);
}

TEST_CASE("a parameter group multiplies the learning rate; the first that fits counts") {
  const Params params{{"a.lora_a", mx::zeros({2, 2})}, {"a.lora_b", mx::zeros({2, 2})}};
  const Params gradients{{"a.lora_a", mx::ones({2, 2})}, {"a.lora_b", mx::ones({2, 2})}};
  auto optimizer = make_optimizer("adam", {});
  optimizer.groups = {{"*.lora_b", 16.0}, {"*", 0.5}};
  const auto moved =
      optimizer
          .step(params, gradients, optimizer.initial_state(params), mx::array(0.01F), mx::array(0, mx::int32))
          .first;
  CHECK(max_difference(moved.at("a.lora_b"), mx::full({2, 2}, -0.16F)) < 1e-5F);
  CHECK(max_difference(moved.at("a.lora_a"), mx::full({2, 2}, -0.005F)) < 1e-6F);
}

TEST_CASE("a parameter group that fits nothing is refused") {
  auto optimizer = make_optimizer("adam", {});
  optimizer.groups = {{"*.lora_c"}};
  const auto message = message_of<ConfigError>([&] {
    optimizer.initial_state({{"a.lora_a", mx::zeros({2, 2})}});
  });
  CHECK(message == "parameter_groups: '*.lora_c' fits no trained parameter, such as a.lora_a");
}

TEST_CASE("clipping agrees with torch") {
  const auto problem = read_json(kFixtures / "torch.json");
  const auto gradients = to_params(problem.at("gradients").front());
  REQUIRE(problem.at("clipping").size() == 2);
  for (const auto& entry : problem.at("clipping")) {
    auto norm = global_norm(gradients);
    CHECK(norm.item<float>() == doctest::Approx(entry.at("norm").get<double>()).epsilon(1e-6));
    const auto clipped = clip_gradients(gradients, norm, entry.at("max_norm").get<double>());
    for (const auto& [name, expected] : to_params(entry.at("clipped"))) {
      CHECK(relative_difference(clipped.at(name), expected) < 1e-5F);
    }
  }
}

TEST_CASE("clipping leaves zero gradients zero") {
  const Params zero{{"w", mx::zeros({3})}};
  CHECK(same_bits(clip_gradients(zero, global_norm(zero), 1.0), zero));
}

TEST_CASE("an unknown optimizer is refused with the choices") {
  const auto message = message_of<ConfigError>([] { make_optimizer("adamax", {}); });
  CHECK(contains(message, "adamax"));
  CHECK(contains(message, "adam, adamw, sgd"));
}
