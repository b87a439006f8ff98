// Adafactor: Shazeer & Stern 2018, arXiv:1804.04235, algorithms 4 to 6. A matrix's second moment is the product
// of its rows' and columns' means (the last two axes; axes before them are kept apart).
#include "temper/optim/optimizers/all.h"

namespace temper {
namespace {

mx::array root_mean_square(const mx::array& x) {
  return mx::sqrt(mx::mean(mx::square(x)));
}

class Adafactor final : public UpdateRule {
 public:
  explicit Adafactor(AdafactorConfig config) : config_(std::move(config)) {
  }

  Slots initial_state(const std::string&, const mx::array& parameter) const override {
    const auto zeros = [](const mx::Shape& shape) { return mx::zeros(shape, mx::float32); };
    const auto& shape = parameter.shape();
    Slots state;
    if (shape.size() < 2) {
      state.emplace("v", zeros(shape));
    } else {
      auto columns = mx::Shape(shape.begin(), shape.end() - 2);
      columns.push_back(shape.back());
      state.emplace("v_row", zeros(mx::Shape(shape.begin(), shape.end() - 1)));
      state.emplace("v_col", zeros(columns));
    }
    if (config_.beta_1) {
      state.emplace("m", zeros(shape));
    }
    return state;
  }

  mx::array step(ParameterStep& p) const override {
    const auto rate = step_size(p);
    auto update = normalized(p) * p.gradient;
    update = update / mx::maximum(scalar(1.0), root_mean_square(update) / scalar(config_.clip_threshold));
    update = rate * update;
    if (config_.beta_1) {
      auto& m = p.state.at("m");
      m = scalar(*config_.beta_1) * m + scalar(1.0 - *config_.beta_1) * update;
      update = m;
    }
    return decayed(p, rate) - update;
  }

  std::optional<double> weight_decay(const std::string&, const mx::array&) const override {
    return config_.weight_decay;
  }

 private:
  mx::array step_size(const ParameterStep& p) const {
    auto rate = p.learning_rate;
    if (config_.relative_step) {
      const auto most = config_.warmup_init ? scalar(1e-6) * p.count : scalar(1e-2);
      rate = scalar(p.learning_rate_ratio) * mx::minimum(most, mx::rsqrt(p.count));
    }
    return config_.scale_parameter
               ? rate * mx::maximum(scalar(config_.eps.at(1)), root_mean_square(p.parameter))
               : rate;
  }

  // Moves the second moment on; returns one over its root.
  mx::array normalized(ParameterStep& p) const {
    const auto fresh = mx::power(p.count, scalar(config_.decay_rate)); // 1 - beta 2
    const auto square = mx::square(p.gradient) + scalar(config_.eps.at(0));
    const auto moved = [&](const mx::array& moment, const mx::array& now) {
      return (scalar(1.0) - fresh) * moment + fresh * now;
    };
    if (p.parameter.ndim() < 2) {
      auto& v = p.state.at("v");
      v = moved(v, square);
      return mx::rsqrt(v);
    }
    auto& rows = p.state.at("v_row");
    auto& columns = p.state.at("v_col");
    rows = moved(rows, mx::mean(square, -1));
    columns = moved(columns, mx::mean(square, -2));
    const auto by_row = mx::rsqrt(rows / mx::mean(rows, -1, true));
    return mx::expand_dims(by_row, -1) * mx::expand_dims(mx::rsqrt(columns), -2);
  }

  AdafactorConfig config_;
};

} // namespace

std::unique_ptr<UpdateRule> make_adafactor(const OptimizerConfig& config) {
  return std::make_unique<Adafactor>(config.adafactor);
}

} // namespace temper
