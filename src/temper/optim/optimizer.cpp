#include "temper/optim/optimizer.h"

#include <algorithm>

#include "temper/base/error.h"

namespace temper {
namespace {

mx::array scalar(double value) {
  return mx::array(static_cast<float>(value));
}

// Adam's direction and new moments; `count` steps were done before this one.
struct AdamStep {
  mx::array direction;
  mx::array m;
  mx::array v;
};

AdamStep adam_step(const OptimizerConfig& c, const mx::array& gradient, const mx::array& m_old,
                   const mx::array& v_old, const mx::array& count) {
  const auto m = scalar(c.betas[0]) * m_old + scalar(1.0 - c.betas[0]) * gradient;
  const auto v = scalar(c.betas[1]) * v_old + scalar(1.0 - c.betas[1]) * mx::square(gradient);
  if (!c.bias_correction) {
    return {m / (mx::sqrt(v) + scalar(c.eps)), m, v};
  }
  const auto t = mx::astype(count, mx::float32) + scalar(1.0);
  const auto m_hat = m / (scalar(1.0) - mx::power(scalar(c.betas[0]), t));
  const auto v_hat = v / (scalar(1.0) - mx::power(scalar(c.betas[1]), t));
  return {m_hat / (mx::sqrt(v_hat) + scalar(c.eps)), m, v};
}

} // namespace

bool decays(const std::string& name, const mx::array& parameter) {
  return parameter.ndim() >= 2 && !name.ends_with(".bias");
}

Optimizer make_optimizer(const std::string& name, const OptimizerConfig& config) {
  if (name != "adam" && name != "adamw" && name != "sgd") {
    throw ConfigError("optimizer: " + name + " is not one of adam, adamw, sgd");
  }
  return {name, config, {}};
}

Params Optimizer::initial_state(const Params& params) const {
  for (const auto& group : groups) {
    if (std::none_of(params.begin(), params.end(),
                     [&](const auto& entry) { return group_of({group}, entry.first) != nullptr; })) {
      throw ConfigError("parameter_groups: '" + group.match + "' fits no trained parameter" +
                        (params.empty() ? "" : ", such as " + params.begin()->first));
    }
  }
  Params state;
  for (const auto& [key, parameter] : params) {
    const auto zeros = mx::zeros(parameter.shape(), mx::float32);
    if (name == "sgd") {
      if (config.momentum > 0) {
        state.emplace("momentum." + key, zeros);
      }
    } else {
      state.emplace("m." + key, zeros);
      state.emplace("v." + key, zeros);
    }
  }
  return state;
}

std::pair<Params, Params> Optimizer::step(const Params& params, const Params& gradients, const Params& state,
                                          const mx::array& learning_rate, const mx::array& count) const {
  Params new_params;
  Params new_state;
  for (const auto& [key, parameter] : params) {
    auto gradient = mx::astype(gradients.at(key), mx::float32);
    auto value = parameter;
    const auto* group = group_of(groups, key);
    const auto rate = group != nullptr ? learning_rate * scalar(group->learning_rate_ratio) : learning_rate;
    const double decay = group != nullptr && group->weight_decay ? *group->weight_decay
                         : decays(key, parameter)                ? config.weight_decay
                                                                 : 0.0;
    const bool decayed = decay > 0;
    if (name == "sgd") {
      if (decayed) {
        gradient = gradient + scalar(decay) * value;
      }
      if (config.momentum > 0) {
        const auto momentum = scalar(config.momentum) * state.at("momentum." + key) + gradient;
        new_state.emplace("momentum." + key, momentum);
        gradient = config.nesterov ? gradient + scalar(config.momentum) * momentum : momentum;
      }
      new_params.emplace(key, value - rate * gradient);
      continue;
    }
    if (name == "adamw" && decayed) {
      value = value * (scalar(1.0) - rate * scalar(decay));
    }
    const auto update = adam_step(config, gradient, state.at("m." + key), state.at("v." + key), count);
    new_state.emplace("m." + key, update.m);
    new_state.emplace("v." + key, update.v);
    new_params.emplace(key, value - rate * update.direction);
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
