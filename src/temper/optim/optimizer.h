// Optimizers as pure functions of (parameters, gradients, state). State is a flat map like the parameters,
// so it is saved, loaded and passed through compiled functions like them. All state is fp32.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "temper/config/parameter_groups.h"
#include "temper/config/run_config.h"
#include "temper/nn/params.h"

namespace temper {

// Sources: adam: Kingma & Ba 2014, arXiv:1412.6980; adamw: Loshchilov & Hutter 2017, arXiv:1711.05101;
// sgd with momentum and Nesterov: Sutskever et al. 2013, in torch.optim.SGD's form.
struct Optimizer {
  std::string name = "adam"; // adam, adamw, sgd
  OptimizerConfig config;
  std::vector<ParameterGroup> groups{}; // the first that fits a parameter's name counts

  // Zero moments for each of `params`, as "<kind>.<parameter>". Lazy. Throws ConfigError if a group fits none.
  Params initial_state(const Params& params) const;

  // The parameters and state after one step. `count`: int32 scalar, steps done before; `learning_rate`: fp32
  // scalar. Decay skips norms and biases (decays()). Lazy.
  std::pair<Params, Params> step(const Params& params, const Params& gradients, const Params& state,
                                 const mx::array& learning_rate, const mx::array& count) const;
};

// Whether weight decay applies to a tensor: matrices, not norms and biases.
bool decays(const std::string& name, const mx::array& parameter);

// Throws ConfigError unless `name` is an optimizer.
Optimizer make_optimizer(const std::string& name, const OptimizerConfig& config);

// sqrt of the sum of squares over all gradients, a fp32 scalar. Lazy.
mx::array global_norm(const Params& gradients);

// Scales all gradients by min(1, max_norm / norm), as torch's clip_grad_norm_. Lazy.
// Source: Pascanu et al. 2013, arXiv:1211.5063.
Params clip_gradients(const Params& gradients, const mx::array& norm, double max_norm);

} // namespace temper
