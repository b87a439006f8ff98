// SGD with momentum and Nesterov's: Sutskever et al. 2013, in torch.optim.SGD's form. With dampening the first
// step is dampened too, as MLX does it; torch's is not.
#include "temper/optim/optimizers/all.h"

namespace temper {
namespace {

class Sgd final : public UpdateRule {
 public:
  explicit Sgd(const SgdConfig& config) : config_(config) {
  }

  Slots initial_state(const std::string&, const mx::array& parameter) const override {
    Slots state;
    if (config_.momentum > 0) {
      state.emplace("momentum", mx::zeros(parameter.shape(), mx::float32));
    }
    return state;
  }

  mx::array step(ParameterStep& p) const override {
    auto update = p.gradient;
    if (p.weight_decay > 0) {
      update = update + scalar(p.weight_decay) * p.parameter;
    }
    if (config_.momentum > 0) {
      auto& momentum = p.state.at("momentum");
      const auto fresh = config_.dampening > 0 ? scalar(1.0 - config_.dampening) * update : update;
      momentum = scalar(config_.momentum) * momentum + fresh;
      update = config_.nesterov ? update + scalar(config_.momentum) * momentum : momentum;
    }
    return p.parameter - p.learning_rate * update;
  }

  std::optional<double> weight_decay(const std::string&, const mx::array&) const override {
    return config_.weight_decay;
  }

  bool is_elementwise() const override {
    return true;
  }

 private:
  SgdConfig config_;
};

} // namespace

std::unique_ptr<UpdateRule> make_sgd(const OptimizerConfig& config) {
  return std::make_unique<Sgd>(config.sgd);
}

} // namespace temper
