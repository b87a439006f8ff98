// Optimizers as pure functions of (parameters, gradients, state). State is a flat map like the parameters,
// so it is saved, loaded and passed through compiled functions like them. All state is fp32.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "temper/config/optimizer_config.h"
#include "temper/config/parameter_groups.h"
#include "temper/nn/params.h"
#include "temper/optim/update_rule.h"

namespace temper {

// One of the optimizers in temper/optim/optimizers/, by name; each file there names its source.
struct Optimizer {
  std::string name = "adam"; // optimizer_names()
  OptimizerConfig config{};
  std::vector<ParameterGroup> groups{}; // the first that fits a parameter's name counts

  // The state of each of `params`, as "<kind>.<parameter>". Lazy. Throws ConfigError if a group fits none of
  // them, or the optimizer can do nothing with them.
  Params initial_state(const Params& params) const;

  // What of a parameter decides its step besides its values; empty: the step takes the parameter as a whole.
  // Parameters of equal kind may be laid end to end.
  std::string elementwise_kind(const std::string& parameter_name, const mx::array& parameter) const;

  // The parameters and state after one step. `count`: int32 scalar, steps done before; `learning_rate`: fp32
  // scalar. Weight decay skips norms and biases (decays()) unless a group names them. Lazy.
  std::pair<Params, Params> step(const Params& params, const Params& gradients, const Params& state,
                                 const mx::array& learning_rate, const mx::array& count) const;
};

// Throws ConfigError unless `name` is an optimizer, and its options agree with each other.
Optimizer make_optimizer(const std::string& name, const OptimizerConfig& config,
                         std::vector<ParameterGroup> groups = {});

// sqrt of the sum of squares over all gradients, a fp32 scalar. Lazy.
mx::array global_norm(const Params& gradients);

// Scales all gradients by min(1, max_norm / norm), as torch's clip_grad_norm_. Lazy.
// Source: Pascanu et al. 2013, arXiv:1211.5063.
Params clip_gradients(const Params& gradients, const mx::array& norm, double max_norm);

} // namespace temper
