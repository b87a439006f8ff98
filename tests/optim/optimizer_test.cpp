// Against torch, transformers and MLX: tests/golden/make_optim_fixtures.py made the fixtures.
#include "temper/optim/optimizer.h"

#include <filesystem>
#include <set>

#include "nn/support.h"
#include "temper/base/error.h"
#include "temper/base/json.h"
#include "temper/config/run_config_fields.h"
#include "temper/optim/optimizers/all.h"
#include "temper/optim/schedules/all.h"

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
  const std::string name = json.at("name");
  const auto config =
      run_config_from_json({{"optimizer", name}, {"optimizer_config", {{name, json.at("options")}}}});
  return make_optimizer(name, config.optimizer_config);
}

// What `visit` sees after each step: the steps done and the parameters.
void run(const Optimizer& optimizer, const Json& problem,
         const std::function<void(int, const Params&)>& visit) {
  const auto& rates = problem.at("learning_rates");
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

// Returns the optimizers that the file has.
std::set<std::string> compare_with(const std::string& file) {
  const auto problem = read_json(kFixtures / file);
  std::set<std::string> seen;
  for (const auto& entry : problem.at("optimizers")) {
    CAPTURE(entry.at("name").get<std::string>());
    CAPTURE(entry.at("options").dump());
    const auto& snapshots = entry.at("snapshots");
    // Newton-Schulz iterations multiply a small singular value's rounding by up to 3.4 each.
    const float tolerance = entry.at("name") == "muon" ? 2e-5F : 3e-6F;
    int compared = 0;
    run(from_json(entry), problem, [&](int step, const Params& params) {
      const auto it = snapshots.find(std::to_string(step));
      if (it != snapshots.end()) {
        for (const std::string name : entry.at("compare")) {
          CAPTURE(step);
          CAPTURE(name);
          CHECK(max_difference(params.at(name), to_array(it->at(name))) < tolerance);
          ++compared;
        }
      }
    });
    CHECK(compared == 5 * static_cast<int>(entry.at("compare").size()));
    seen.insert(entry.at("name"));
  }
  return seen;
}

// After one step of `optimizer` from `params`.
Params moved(const Optimizer& optimizer, const Params& params, const Params& gradients, float learning_rate) {
  return optimizer
      .step(params, gradients, optimizer.initial_state(params), mx::array(learning_rate),
            mx::array(0, mx::int32))
      .first;
}

Params zeros_like(const Params& params) {
  Params zeros;
  for (const auto& [name, array] : params) {
    zeros.emplace(name, mx::zeros_like(array));
  }
  return zeros;
}

} // namespace

TEST_CASE("fifty steps of each optimizer agree with torch and transformers, or with MLX") {
  auto seen = compare_with("torch.json");
  seen.merge(compare_with("mlx.json"));
  const auto names = optimizer_names();
  CHECK(seen == std::set<std::string>(names.begin(), names.end()));
}

TEST_CASE("the configuration offers what is registered, optimizers and schedules") {
  RunConfig config;
  const auto fields = run_config_fields(config);
  std::vector<std::string> optimizers, schedules;
  for (const auto& entry : kOptimizers) {
    optimizers.emplace_back(entry.name);
  }
  for (const auto& entry : kSchedules) {
    schedules.emplace_back(entry.name);
  }
  CHECK(optimizers == optimizer_names());
  CHECK(schedules == fields.find("lr_schedule.name")->choices);
}

TEST_CASE("rule 6: Adam corrects its bias") {
  CHECK(OptimizerConfig().adam.bias_correction);
  // Corrected, a first step has length learning_rate whatever the gradient; uncorrected it is 3.16 times that.
  const Params params{{"w.weight", mx::zeros({3, 1})}};
  const Params gradients{{"w.weight", mx::array({1e-3F, 1.0F, -50.0F}, {3, 1})}};
  for (const bool corrected : {true, false}) {
    OptimizerConfig config;
    config.adam.bias_correction = corrected;
    const auto found = moved(make_optimizer("adam", config), params, gradients, 0.01F).at("w.weight");
    const float length = corrected ? 0.01F : 0.01F * 0.1F / std::sqrt(0.001F);
    CHECK(relative_difference(found, mx::array({-length, -length, length}, {3, 1})) < 1e-3F);
  }
}

TEST_CASE("rule 6: AdamW, and every other optimizer, decays no norms or biases") {
  const auto vector = mx::ones({4});
  const auto matrix = mx::ones({4, 4});
  CHECK_FALSE(decays("model.norm.weight", vector));
  CHECK_FALSE(decays("model.layers.0.self_attn.q_proj.bias", vector));
  CHECK_FALSE(decays("experts.bias", matrix));
  CHECK(decays("model.layers.0.self_attn.q_proj.weight", matrix));
  CHECK(decays("model.layers.0.self_attn.q_proj.lora_a", matrix));

  const Params params{
      {"norm.weight", vector}, {"q.bias", vector}, {"q.weight", matrix}, {"embed_tokens.weight", matrix}};
  OptimizerConfig config;
  config.adamw.weight_decay = config.sgd.weight_decay = config.lion.weight_decay =
      config.adafactor.weight_decay = config.muon.weight_decay = 0.1;
  for (const auto& name : optimizer_names()) {
    CAPTURE(name);
    const auto found = moved(make_optimizer(name, config), params, zeros_like(params), 0.5F);
    CHECK(same_bits(found.at("norm.weight"), vector));
    CHECK(same_bits(found.at("q.bias"), vector));
    const float kept = name == "adam" ? 1.0F : 1.0F - 0.5F * 0.1F; // adam has no decay
    CHECK(max_difference(found.at("q.weight"), mx::full({4, 4}, kept, mx::float32)) < 1e-6F);
    CHECK(max_difference(found.at("embed_tokens.weight"), mx::full({4, 4}, kept, mx::float32)) < 1e-6F);
  }
}

TEST_CASE("state is fp32 whatever the parameters are, and only what the optimizer needs") {
  const Params params{{"w", mx::zeros({2, 3}, mx::bfloat16)}, {"z", mx::zeros({5}, mx::bfloat16)}};
  OptimizerConfig config;
  const auto kinds = [&](const std::string& name) {
    std::vector<std::string> names;
    for (const auto& [kind, array] : make_optimizer(name, config).initial_state(params)) {
      CHECK(array.dtype() == mx::float32);
      names.push_back(kind);
    }
    return names;
  };
  using Names = std::vector<std::string>;
  CHECK(kinds("sgd").empty());
  config.sgd.momentum = 0.9;
  CHECK(kinds("sgd") == Names{"momentum.w", "momentum.z"});
  CHECK(kinds("adamw") == Names{"m.w", "m.z", "v.w", "v.z"});
  CHECK(kinds("lion") == Names{"m.w", "m.z"});
  CHECK(kinds("adafactor") == Names{"v.z", "v_col.w", "v_row.w"});
  CHECK(kinds("muon") == Names{"m.z", "momentum.w", "v.z"});
  const auto state = make_optimizer("adafactor", config).initial_state({{"w", mx::zeros({7, 2, 3})}});
  CHECK(state.at("v_row.w").shape() == mx::Shape{7, 2});
  CHECK(state.at("v_col.w").shape() == mx::Shape{7, 3});
}

TEST_CASE("every optimizer does the same compiled, and takes zero gradients") {
  const Params params{
      {"norm.weight", randn({5}, "n")}, {"q.weight", randn({5, 3}, "q")}, {"e.weight", randn({2, 4, 3}, "e")}};
  const Params gradients{{"norm.weight", randn({5}, "gn")},
                         {"q.weight", randn({5, 3}, "gq")},
                         {"e.weight", randn({2, 4, 3}, "ge")}};
  for (const auto& name : optimizer_names()) {
    CAPTURE(name);
    const auto optimizer = make_optimizer(name, {});
    const auto state = optimizer.initial_state(params);
    const auto compiled = mx::compile([&](const std::vector<mx::array>& inputs) {
      const auto count = params.size();
      return values(optimizer
                        .step(with_values(params, inputs), with_values(params, inputs, count),
                              with_values(state, inputs, 2 * count), mx::array(0.01F), mx::array(0, mx::int32))
                        .first);
    });
    auto inputs = values(params);
    for (const auto& part : {values(gradients), values(state)}) {
      inputs.insert(inputs.end(), part.begin(), part.end());
    }
    const auto expected = moved(optimizer, params, gradients, 0.01F);
    for (const auto& [key, found] : with_values(params, compiled(inputs))) {
      CAPTURE(key);
      CHECK(max_difference(found, expected.at(key)) < 1e-5F);
      CHECK(max_difference(found, params.at(key)) > 1e-4F);
    }
    for (const auto& [key, found] : moved(optimizer, params, zeros_like(params), 0.01F)) {
      CHECK(mx::all(mx::isfinite(found)).item<bool>());
    }
  }
}

TEST_CASE("Muon: matrices of one shape together are each alone; stacked experts are matrices of their own") {
  const auto a = randn({4, 6}, "a"), b = randn({6, 4}, "b"), c = randn({4, 6}, "c");
  const auto zero = mx::zeros({4, 6});
  const Params params{{"a", zero}, {"b", mx::zeros({6, 4})}, {"e", mx::zeros({2, 4, 6})}};
  const Params gradients{{"a", a}, {"b", b}, {"e", mx::stack({c, a})}};
  const auto muon = make_optimizer("muon", {});
  const auto together = moved(muon, params, gradients, 0.1F);
  const auto alone = [&](const mx::array& gradient) {
    return moved(muon, {{"w", mx::zeros_like(gradient)}}, {{"w", gradient}}, 0.1F).at("w");
  };
  CHECK(max_difference(together.at("a"), alone(a)) < 1e-6F);
  CHECK(max_difference(together.at("b"), alone(b)) < 1e-6F);
  CHECK(max_difference(together.at("e"), mx::stack({alone(c), alone(a)})) < 1e-6F);
  // A step is nearly orthogonal: its singular values are near the learning rate.
  const auto step = alone(a) / -0.1F;
  const auto gram = mx::matmul(step, mx::swapaxes(step, 0, 1));
  CHECK(max_difference(gram, mx::eye(4)) < 0.6F);
}

TEST_CASE("Muon leaves embeddings, head, norms and biases to AdamW") {
  const Params params{{"lm_head.weight", mx::ones({3, 4})},
                      {"model.embed_tokens.weight", mx::ones({3, 4})},
                      {"model.layers.0.conv.weight", mx::ones({4, 3, 1})},
                      {"model.norm.weight", mx::ones({4})},
                      {"q.weight", mx::ones({3, 4})}};
  Params gradients;
  for (const auto& [name, array] : params) {
    gradients.emplace(name, randn(array.shape(), name));
  }
  OptimizerConfig config;
  config.adamw.betas = {0.5, 0.6};
  config.adamw.weight_decay = 0.2;
  const auto by_muon = moved(make_optimizer("muon", config), params, gradients, 0.1F);
  const auto by_adamw = moved(make_optimizer("adamw", config), params, gradients, 0.1F);
  for (const auto& [name, array] : by_muon) {
    CAPTURE(name);
    CHECK((max_difference(array, by_adamw.at(name)) < 1e-6F) == (name != "q.weight"));
  }
  CHECK(message_of<ConfigError>([&] {
          make_optimizer("muon", {}).initial_state({{"model.norm.weight", mx::ones({4})}});
        }) ==
        "optimizer: muon trains matrices and none of the trained parameters is one, such as "
        "model.norm.weight; use adamw");
}

TEST_CASE("a parameter group multiplies the learning rate; the first that fits counts") {
  const Params params{{"a.lora_a", mx::zeros({2, 2})}, {"a.lora_b", mx::zeros({2, 2})}};
  const Params gradients{{"a.lora_a", mx::ones({2, 2})}, {"a.lora_b", mx::ones({2, 2})}};
  auto optimizer = make_optimizer("adam", {});
  optimizer.groups = {{"*.lora_b", 16.0}, {"*", 0.5}};
  const auto found = moved(optimizer, params, gradients, 0.01F);
  CHECK(max_difference(found.at("a.lora_b"), mx::full({2, 2}, -0.16F)) < 1e-5F);
  CHECK(max_difference(found.at("a.lora_a"), mx::full({2, 2}, -0.005F)) < 1e-6F);
}

TEST_CASE("a group's ratio also counts where the learning rate does not: Adafactor's relative steps") {
  const Params params{{"a", mx::ones({2, 2})}, {"b", mx::ones({2, 2})}};
  OptimizerConfig config;
  config.adafactor.relative_step = true;
  auto optimizer = make_optimizer("adafactor", config);
  optimizer.groups = {{"b", 3.0}};
  const auto found = moved(optimizer, params, params, 0.0F);
  CHECK(max_difference(found.at("a"), mx::full({2, 2}, 1 - 0.01F)) < 1e-6F);
  CHECK(max_difference(found.at("b"), mx::full({2, 2}, 1 - 0.03F)) < 1e-6F);
}

TEST_CASE("a parameter group gives its own weight decay, to norms too; not to an optimizer without") {
  const Params params{{"norm.weight", mx::ones({4})}, {"q.weight", mx::ones({2, 2})}};
  const Params zeros = zeros_like(params);
  const auto found = moved({"adamw", {}, {{"norm.*", 1.0, 0.5}, {"q.*", 2.0, 0.0}}}, params, zeros, 0.1F);
  CHECK(max_difference(found.at("norm.weight"), mx::full({4}, 0.95F)) < 1e-6F);
  CHECK(same_bits(found.at("q.weight"), params.at("q.weight")));
  const Optimizer adam{"adam", {}, {{"norm.*", 1.0, 0.5}}};
  CHECK(message_of<ConfigError>([&] { adam.initial_state(params); }) ==
        "parameter_groups: 'norm.*' sets a weight_decay, which adam does not have; use adamw");
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

TEST_CASE("an unknown optimizer is refused with the choices and the nearest") {
  const auto message = message_of<ConfigError>([] { make_optimizer("adamax", {}); });
  CHECK(message ==
        "optimizer: adamax is not one of adam, adamw, sgd, lion, adafactor, muon; did you mean 'adam'?");
}

TEST_CASE("options that contradict each other are refused") {
  OptimizerConfig config;
  config.sgd.nesterov = true;
  CHECK_THROWS_AS(make_optimizer("sgd", config), ConfigError);
  CHECK_NOTHROW(make_optimizer("adam", config));
  config.adafactor.warmup_init = true;
  CHECK_THROWS_AS(make_optimizer("adafactor", config), ConfigError);
}
