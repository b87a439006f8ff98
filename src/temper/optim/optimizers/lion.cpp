// Lion: Chen et al. 2023, arXiv:2302.06675, algorithm 2.
#include "temper/optim/optimizers/all.h"

namespace temper {
namespace {

class Lion final : public UpdateRule {
 public:
  explicit Lion(LionConfig config) : config_(std::move(config)) {
  }

  Slots initial_state(const std::string&, const mx::array& parameter) const override {
    return {{"m", mx::zeros(parameter.shape(), mx::float32)}};
  }

  mx::array step(ParameterStep& p) const override {
    const double beta1 = config_.betas.at(0), beta2 = config_.betas.at(1);
    auto& m = p.state.at("m");
    const auto direction = mx::sign(scalar(beta1) * m + scalar(1.0 - beta1) * p.gradient);
    m = scalar(beta2) * m + scalar(1.0 - beta2) * p.gradient;
    return decayed(p, p.learning_rate) - p.learning_rate * direction;
  }

  std::optional<double> weight_decay(const std::string&, const mx::array&) const override {
    return config_.weight_decay;
  }

  bool is_elementwise() const override {
    return true;
  }

 private:
  LionConfig config_;
};

} // namespace

std::unique_ptr<UpdateRule> make_lion(const OptimizerConfig& config) {
  return std::make_unique<Lion>(config.lion);
}

} // namespace temper
