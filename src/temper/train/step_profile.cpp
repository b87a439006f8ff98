#include "temper/train/step_profile.h"

#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "temper/base/units.h"

namespace temper {
namespace {

constexpr std::size_t kTableRows = 14;
constexpr std::size_t kShapeRows = 60;

// What operations of one kind took together.
struct Sum {
  std::string name, inputs, outputs;
  std::int64_t count = 0;
  double seconds = 0;
  std::int64_t allocated_bytes = 0; // where they grew
};

std::vector<Sum> costliest_first(const std::map<std::string, Sum>& sums) {
  std::vector<Sum> all;
  all.reserve(sums.size());
  for (const auto& [key, sum] : sums) {
    all.push_back(sum);
  }
  std::ranges::stable_sort(all, std::ranges::greater{}, &Sum::seconds);
  return all;
}

std::vector<Sum> sums_of(const std::vector<StepProfile::Phase>& phases, bool by_shape) {
  std::map<std::string, Sum> sums;
  for (const auto& phase : phases) {
    for (const auto& operation : phase.operations) {
      auto& sum = sums[by_shape ? operation.name + " " + operation.inputs : operation.name];
      sum.name = operation.name;
      if (by_shape) {
        sum.inputs = operation.inputs;
        sum.outputs = operation.outputs;
      }
      ++sum.count;
      sum.seconds += operation.seconds;
      sum.allocated_bytes += std::max<std::int64_t>(0, operation.allocated_bytes);
    }
  }
  return costliest_first(sums);
}

double sum_seconds(const std::vector<ProfiledOperation>& operations) {
  double seconds = 0;
  for (const auto& operation : operations) {
    seconds += operation.seconds;
  }
  return seconds;
}

Json row_of(const Sum& sum) {
  Json row{{"name", sum.name},
           {"count", sum.count},
           {"ms", 1e3 * sum.seconds},
           {"allocated_bytes", sum.allocated_bytes}};
  if (!sum.inputs.empty()) {
    row["inputs"] = sum.inputs;
    row["outputs"] = sum.outputs;
  }
  return row;
}

// Activations and temporaries: what is in use beyond what was there before the step.
std::int64_t activations(const StepProfile& profile, std::int64_t active) {
  return std::max<std::int64_t>(0, active - profile.weights_bytes - profile.trained_bytes -
                                       profile.optimizer_bytes - profile.other_bytes);
}

} // namespace

double StepProfile::seconds() const {
  double all = 0;
  for (const auto& phase : phases) {
    all += sum_seconds(phase.operations);
  }
  return all;
}

Json StepProfile::to_json() const {
  Json json{{"sum_ms", 1e3 * seconds()}, {"phases", Json::array()}};
  for (const auto& phase : phases) {
    json["phases"].push_back({{"name", phase.name},
                              {"ms", 1e3 * sum_seconds(phase.operations)},
                              {"operations", phase.operations.size()}});
  }
  json["operations"] = Json::array();
  for (const auto& sum : sums_of(phases, false)) {
    json["operations"].push_back(row_of(sum));
  }
  json["by_shape"] = Json::array();
  for (const auto& sum : sums_of(phases, true)) {
    if (json["by_shape"].size() < kShapeRows) {
      json["by_shape"].push_back(row_of(sum));
    }
  }
  json["memory"] = {{"weights_bytes", weights_bytes},
                    {"trained_bytes", trained_bytes},
                    {"optimizer_bytes", optimizer_bytes},
                    {"other_bytes", other_bytes},
                    {"activations_peak_bytes", activations(*this, peak_bytes)},
                    {"peak_bytes", peak_bytes}};
  return json;
}

std::string StepProfile::table() const {
  std::string text = fmt::format("{:<40} {:>7} {:>10} {:>6}\n", "operation", "count", "ms", "share");
  const auto all = seconds();
  double rest = 0;
  std::size_t row = 0;
  for (const auto& sum : sums_of(phases, false)) {
    if (row++ < kTableRows) {
      text += fmt::format("{:<40} {:>7} {:>10.2f} {:>5.1f}%\n", sum.name.substr(0, 40), sum.count,
                          1e3 * sum.seconds, 100 * sum.seconds / all);
    } else {
      rest += sum.seconds;
    }
  }
  text += fmt::format("{:<40} {:>7} {:>10.2f} {:>5.1f}%\n", "the rest", "", 1e3 * rest, 100 * rest / all);
  for (const auto& phase : phases) {
    text += fmt::format("{:<40} {:>7} {:>10.2f}\n", phase.name, phase.operations.size(),
                        1e3 * sum_seconds(phase.operations));
  }
  const auto line = [&](const char* kind, std::int64_t bytes) {
    return fmt::format("{:<40} {:>18.4f} GB\n", kind, gigabytes(static_cast<double>(bytes)));
  };
  return text + line("weights", weights_bytes) + line("trained parameters", trained_bytes) +
         line("optimizer state", optimizer_bytes) +
         line("activations and temporaries, at the peak", activations(*this, peak_bytes)) +
         line("peak", peak_bytes);
}

Json StepProfile::chrome_trace() const {
  Json events = Json::array();
  events.push_back(
      {{"name", "process_name"}, {"ph", "M"}, {"pid", 1}, {"args", {{"name", "temper training step"}}}});
  for (const auto& phase : phases) {
    for (const auto& operation : phase.operations) {
      const double start_us = 1e6 * operation.start_s;
      events.push_back({{"name", operation.name},
                        {"cat", phase.name},
                        {"ph", "X"},
                        {"pid", 1},
                        {"tid", 1},
                        {"ts", start_us},
                        {"dur", 1e6 * operation.seconds},
                        {"args",
                         {{"inputs", operation.inputs},
                          {"outputs", operation.outputs},
                          {"allocated_bytes", operation.allocated_bytes}}}});
      events.push_back({{"name", "memory"},
                        {"ph", "C"},
                        {"pid", 1},
                        {"ts", start_us + 1e6 * operation.seconds},
                        {"args",
                         {{"weights", weights_bytes},
                          {"trained", trained_bytes},
                          {"optimizer", optimizer_bytes},
                          {"other", other_bytes},
                          {"activations", activations(*this, operation.active_bytes)}}}});
    }
  }
  return {{"traceEvents", events}, {"displayTimeUnit", "ms"}, {"temper", to_json()}};
}

StepProfile profile_step(const Model& model, TrainStep& step, TrainState& state, const HostBatch& batch) {
  mx::eval(values(state.trainable));
  mx::eval(values(state.optimizer));
  mx::synchronize();
  StepProfile profile;
  profile.weights_bytes = num_bytes(model.params);
  profile.trained_bytes = num_bytes(state.trainable);
  profile.optimizer_bytes = num_bytes(state.optimizer);
  const auto known = profile.weights_bytes + profile.trained_bytes + profile.optimizer_bytes;
  profile.other_bytes = std::max<std::int64_t>(0, static_cast<std::int64_t>(mx::get_active_memory()) - known);
  mx::reset_peak_memory();

  double at = 0;
  const auto run = [&](const char* name, const std::vector<mx::array>& outputs) {
    profile.phases.push_back({name, profile_graph(outputs, at)});
    const auto& operations = profile.phases.back().operations;
    at = operations.empty() ? at : operations.back().start_s + operations.back().seconds;
  };
  auto part =
      step.gradients(state, batch, 1.0F / static_cast<float>(std::max<std::int64_t>(1, batch.num_supervised)));
  run("forward", {part.loss});
  run("backward", part.gradients.arrays());
  const auto outcome = step.update(state, part.gradients, 1e-5);
  ++state.micro_step;
  part.gradients.clear();
  run("update", outcome.arrays);
  profile.peak_bytes = static_cast<std::int64_t>(mx::get_peak_memory());
  return profile;
}

} // namespace temper
