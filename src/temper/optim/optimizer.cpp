#include "temper/optim/optimizer.h"

#include <algorithm>

#include "temper/base/error.h"
#include "temper/optim/optimizers/all.h"
#include "temper/optim/registered.h"

namespace temper {
namespace {

std::unique_ptr<UpdateRule> make_rule(const std::string& name, const OptimizerConfig& config) {
  return registered(kOptimizers, "optimizer", name).make(config);
}

// A group that does nothing was meant for something else.
void check_group(const ParameterGroup& group, const std::string& optimizer, const UpdateRule& rule,
                 const Params& params) {
  const auto first = std::find_if(params.begin(), params.end(),
                                  [&](const auto& entry) { return group_of({group}, entry.first) != nullptr; });
  if (first == params.end()) {
    throw ConfigError("parameter_groups: '" + group.match + "' fits no trained parameter" +
                      (params.empty() ? "" : ", such as " + params.begin()->first));
  }
  if (group.weight_decay && !rule.weight_decay(first->first, first->second)) {
    throw ConfigError("parameter_groups: '" + group.match + "' sets a weight_decay, which " + optimizer +
                      " does not have; use adamw");
  }
}

} // namespace

Optimizer make_optimizer(const std::string& name, const OptimizerConfig& config,
                         std::vector<ParameterGroup> groups) {
  make_rule(name, config);
  check_optimizer(name, config);
  return {name, config, std::move(groups)};
}

Params Optimizer::initial_state(const Params& params) const {
  const auto rule = make_rule(name, config);
  rule->check(params);
  for (const auto& group : groups) {
    check_group(group, name, *rule, params);
  }
  Params state;
  for (const auto& [key, parameter] : params) {
    for (auto& [kind, array] : rule->initial_state(key, parameter)) {
      state.emplace(kind + "." + key, array);
    }
  }
  return state;
}

std::string Optimizer::elementwise_kind(const std::string& parameter_name, const mx::array& parameter) const {
  if (!make_rule(name, config)->is_elementwise()) {
    return "";
  }
  const auto* group = group_of(groups, parameter_name);
  const auto number = group == nullptr ? -1 : group - groups.data();
  return std::to_string(number) + (decays(parameter_name, parameter) ? " decays" : " stays");
}

std::pair<Params, Params> Optimizer::step(const Params& params, const Params& gradients, const Params& state,
                                          const mx::array& learning_rate, const mx::array& count) const {
  const auto rule = make_rule(name, config);
  const auto number = mx::astype(count, mx::float32) + scalar(1.0);
  std::vector<ParameterStep> steps;
  steps.reserve(params.size());
  for (const auto& [key, parameter] : params) {
    ParameterStep p{key, parameter, mx::astype(gradients.at(key), mx::float32), learning_rate, number};
    const auto* group = group_of(groups, key);
    if (group != nullptr && group->learning_rate_ratio != 1.0) {
      p.learning_rate_ratio = group->learning_rate_ratio;
      p.learning_rate = learning_rate * scalar(group->learning_rate_ratio);
    }
    if (group != nullptr && group->weight_decay) {
      p.weight_decay = *group->weight_decay;
    } else if (decays(key, parameter)) {
      p.weight_decay = rule->weight_decay(key, parameter).value_or(0.0);
    }
    for (const auto& [kind, unused] : rule->initial_state(key, parameter)) {
      p.state.emplace(kind, state.at(kind + "." + key));
    }
    steps.push_back(std::move(p));
  }
  const auto moved = rule->step_all(steps);
  Params new_params;
  Params new_state;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    new_params.emplace_hint(new_params.end(), steps[i].name, moved[i]);
    for (const auto& [kind, array] : steps[i].state) {
      new_state.emplace(kind + "." + steps[i].name, array);
    }
  }
  return {std::move(new_params), std::move(new_state)};
}

mx::array global_norm(const Params& gradients) {
  auto total = mx::array(0.0F);
  for (const auto& [key, gradient] : gradients) {
    total = total + mx::sum(mx::square(mx::astype(gradient, mx::float32)));
  }
  return mx::sqrt(total);
}

Params clip_gradients(const Params& gradients, const mx::array& norm, double max_norm) {
  // The epsilon is torch's: it keeps a zero norm from dividing by zero.
  const auto factor = mx::minimum(scalar(1.0), scalar(max_norm) / (norm + scalar(1e-6)));
  Params clipped;
  for (const auto& [key, gradient] : gradients) {
    clipped.emplace(key, gradient * factor);
  }
  return clipped;
}

} // namespace temper
