#include "temper/train/step_profile.h"

#include <set>

#include "temper/nn/device.h"
#include "train/support.h"

using namespace temper;
using namespace temper::test;

namespace {

struct Profiled {
  Model model = tiny_model();
  TrainStep step{model, step_options("adamw")};
  TrainState state = step.initial_state(lora_factors(model), 1);
  HostBatch batch = batch_of(uneven_examples(12), true);
  StepProfile profile = profile_step(model, step, state, batch);
};

const Profiled& profiled() {
  prepare_device();
  static const Profiled kProfiled;
  return kProfiled;
}

std::int64_t sum_of(const Json& rows, const char* key) {
  std::int64_t sum = 0;
  for (const auto& row : rows) {
    sum += row.at(key).get<std::int64_t>();
  }
  return sum;
}

double ms_of(const Json& rows) {
  double sum = 0;
  for (const auto& row : rows) {
    sum += row.at("ms").get<double>();
  }
  return sum;
}

} // namespace

TEST_CASE("a profile's sums agree, by operation, by phase and in the trace") {
  const auto json = profiled().profile.to_json();
  const auto total = json.at("sum_ms").get<double>();
  CHECK(total > 0);
  CHECK(ms_of(json.at("operations")) == doctest::Approx(total));
  CHECK(ms_of(json.at("phases")) == doctest::Approx(total));
  CHECK(sum_of(json.at("operations"), "count") == sum_of(json.at("phases"), "operations"));

  double traced = 0;
  std::int64_t events = 0;
  const auto trace = profiled().profile.chrome_trace();
  for (const auto& event : trace.at("traceEvents")) {
    if (event.at("ph") == "X") {
      traced += event.at("dur").get<double>();
      ++events;
    }
  }
  CHECK(1e-3 * traced == doctest::Approx(total));
  CHECK(events == sum_of(json.at("phases"), "operations"));
}

TEST_CASE("a profile's trace is what Chrome reads: times in order, names, a phase each") {
  const auto trace = Json::parse(profiled().profile.chrome_trace().dump());
  std::set<std::string> phases;
  std::set<std::string> names;
  double end = 0;
  for (const auto& event : trace.at("traceEvents")) {
    CHECK(event.at("pid") == 1);
    if (event.at("ph") == "X") {
      CHECK(event.at("ts").get<double>() >= end - 1e-6);
      end = event.at("ts").get<double>() + event.at("dur").get<double>();
      CHECK(event.at("args").contains("outputs"));
      phases.insert(event.at("cat").get<std::string>());
      names.insert(event.at("name").get<std::string>());
    } else if (event.at("ph") == "C") {
      CHECK(event.at("args").at("weights") == num_bytes(profiled().model.params));
    }
  }
  CHECK(phases == std::set<std::string>{"forward", "backward", "update"});
  CHECK(names.contains("Matmul"));
  if (mx::default_device() == mx::Device::cpu) {
    CHECK(names.contains("cross_entropy")); // a host kernel by its name
  }
  CHECK(trace.at("displayTimeUnit") == "ms");
  CHECK(trace.at("temper").at("memory").is_object());
}

TEST_CASE("a profile knows memory by kind to the byte") {
  const auto& it = profiled();
  const auto memory = it.profile.to_json().at("memory");
  CHECK(memory.at("weights_bytes") == num_bytes(it.model.params));
  CHECK(memory.at("trained_bytes") == num_bytes(it.state.trainable));
  CHECK(memory.at("optimizer_bytes") == 2 * num_bytes(it.state.trainable)); // Adam's two moments
  CHECK(memory.at("activations_peak_bytes") > 0);
  CHECK(memory.at("weights_bytes").get<std::int64_t>() + memory.at("trained_bytes").get<std::int64_t>() +
            memory.at("optimizer_bytes").get<std::int64_t>() + memory.at("other_bytes").get<std::int64_t>() +
            memory.at("activations_peak_bytes").get<std::int64_t>() ==
        memory.at("peak_bytes").get<std::int64_t>());
  CHECK(it.profile.table().find("Matmul") != std::string::npos);
}

TEST_CASE("a profiled step is a step: the same parameters as one that ran at once") {
  const auto& it = profiled();
  TrainStep step(it.model, step_options("adamw"));
  auto state = step.initial_state(lora_factors(it.model), 1);
  auto part = step.gradients(state, it.batch, 1.0F / static_cast<float>(it.batch.num_supervised));
  step.update(state, part.gradients, 1e-5);
  for (const auto& [name, array] : state.trainable) {
    CHECK(mx::array_equal(array, it.state.trainable.at(name)).item<bool>());
  }
}
