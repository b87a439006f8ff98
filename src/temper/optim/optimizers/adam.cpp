// Adam: Kingma & Ba 2014, arXiv:1412.6980, algorithm 1. AdamW: Loshchilov & Hutter 2017, arXiv:1711.05101,
// algorithm 2, the decay in proportion to the learning rate as torch.optim.AdamW has it.
#include "temper/optim/optimizers/all.h"

namespace temper {
namespace {

class Adam final : public UpdateRule {
 public:
  Adam(AdamConfig config, std::optional<double> weight_decay)
      : config_(std::move(config)), weight_decay_(weight_decay) {
  }

  Slots initial_state(const std::string&, const mx::array& parameter) const override {
    const auto zeros = mx::zeros(parameter.shape(), mx::float32);
    return {{"m", zeros}, {"v", zeros}};
  }

  mx::array step(ParameterStep& p) const override {
    const double beta1 = config_.betas.at(0), beta2 = config_.betas.at(1);
    auto& m = p.state.at("m");
    auto& v = p.state.at("v");
    m = scalar(beta1) * m + scalar(1.0 - beta1) * p.gradient;
    v = scalar(beta2) * v + scalar(1.0 - beta2) * mx::square(p.gradient);
    const auto corrected = [&](const mx::array& moment, double beta) {
      return config_.bias_correction ? moment / (scalar(1.0) - mx::power(scalar(beta), p.count)) : moment;
    };
    const auto direction = corrected(m, beta1) / (mx::sqrt(corrected(v, beta2)) + scalar(config_.eps));
    return decayed(p, p.learning_rate) - p.learning_rate * direction;
  }

  std::optional<double> weight_decay(const std::string&, const mx::array&) const override {
    return weight_decay_;
  }

  bool is_elementwise() const override {
    return true;
  }

 private:
  AdamConfig config_;
  std::optional<double> weight_decay_;
};

} // namespace

std::unique_ptr<UpdateRule> make_adam(const OptimizerConfig& config) {
  return std::make_unique<Adam>(config.adam, std::nullopt);
}

std::unique_ptr<UpdateRule> make_adamw(const OptimizerConfig& config) {
  return std::make_unique<Adam>(config.adamw, config.adamw.weight_decay);
}

} // namespace temper
