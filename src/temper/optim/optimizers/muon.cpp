// Muon: Jordan et al. 2024, kellerjordan.github.io/posts/muon: momentum, made orthogonal by Newton-Schulz
// iterations. Its decay and learning-rate adjustment as torch.optim.Muon, or as mlx.optimizers.Muon.
// Dims: N matrices, R rows, C columns, R <= C.
#include "temper/optim/optimizers/all.h"

#include <algorithm>
#include <cmath>

#include "temper/base/error.h"

namespace temper {
namespace {

// Matrices up to this size are iterated many at once: small ones cost launches, not arithmetic.
constexpr std::size_t kMostBatched = std::size_t{1} << 20;
// ... and of so many elements together, which bounds the memory.
constexpr std::size_t kBatchElements = std::size_t{1} << 25;

// x [N, R, C] -> nearly orthogonal rows: singular values all near 1.
mx::array orthogonalized(mx::array x_NRC, int num_steps) {
  x_NRC = x_NRC / (mx::sqrt(mx::sum(mx::square(x_NRC), std::vector<int>{1, 2}, true)) + scalar(1e-7));
  for (int i = 0; i < num_steps; ++i) {
    const auto gram_NRR = mx::matmul(x_NRC, mx::swapaxes(x_NRC, 1, 2));
    const auto poly_NRR = scalar(-4.7750) * gram_NRR + scalar(2.0315) * mx::matmul(gram_NRR, gram_NRR);
    x_NRC = scalar(3.4445) * x_NRC + mx::matmul(poly_NRR, x_NRC);
  }
  return x_NRC;
}

class Muon final : public UpdateRule {
 public:
  explicit Muon(const OptimizerConfig& config) : config_(config.muon), rest_(make_adamw(config)) {
  }

  Slots initial_state(const std::string& name, const mx::array& parameter) const override {
    if (!is_own(name, parameter)) {
      return rest_->initial_state(name, parameter);
    }
    return {{"momentum", mx::zeros(parameter.shape(), mx::float32)}};
  }

  mx::array step(ParameterStep& p) const override {
    std::vector<ParameterStep> one{p};
    auto result = step_all(one);
    p.state = std::move(one.front().state);
    return result.front();
  }

  std::vector<mx::array> step_all(std::vector<ParameterStep>& all) const override {
    std::vector<mx::array> updates;
    updates.reserve(all.size());
    for (auto& p : all) {
      updates.push_back(is_own(p.name, p.parameter) ? momentum_update(p) : p.gradient);
    }
    orthogonalize(all, updates);
    std::vector<mx::array> result;
    result.reserve(all.size());
    for (std::size_t i = 0; i < all.size(); ++i) {
      auto& p = all[i];
      if (!is_own(p.name, p.parameter)) {
        result.push_back(rest_->step(p));
        continue;
      }
      const auto kept = config_.decoupled ? decayed(p, p.learning_rate) : p.parameter;
      result.push_back(kept - p.learning_rate * scalar(adjustment(p)) * updates[i]);
    }
    return result;
  }

  std::optional<double> weight_decay(const std::string& name, const mx::array& parameter) const override {
    return is_own(name, parameter) ? config_.weight_decay : rest_->weight_decay(name, parameter);
  }

  void check(const Params& params) const override {
    if (std::none_of(params.begin(), params.end(),
                     [](const auto& entry) { return is_hidden_matrix(entry.first, entry.second); })) {
      throw ConfigError("optimizer: muon trains matrices and none of the trained parameters is one" +
                        std::string(params.empty() ? "" : ", such as " + params.begin()->first) +
                        "; use adamw");
    }
  }

 private:
  // Embeddings and head are no maps between hidden spaces; axes of length 1 mean a depthwise convolution.
  static bool is_hidden_matrix(const std::string& name, const mx::array& parameter) {
    const bool is_matrix = decays(name, parameter) &&
                           (parameter.ndim() == 2 || std::min(parameter.shape(-1), parameter.shape(-2)) > 1);
    return is_matrix && name != "lm_head.weight" && !name.ends_with("embed_tokens.weight");
  }

  bool is_own(const std::string& name, const mx::array& parameter) const {
    return !config_.adamw_for_rest || is_hidden_matrix(name, parameter);
  }

  mx::array momentum_update(ParameterStep& p) const {
    auto gradient = p.gradient;
    if (!config_.decoupled && p.weight_decay > 0) {
      gradient = gradient + scalar(p.weight_decay) * p.parameter;
    }
    auto& momentum = p.state.at("momentum");
    const auto mixed = [&](const mx::array& now) {
      return scalar(config_.momentum) * now + scalar(1.0 - config_.momentum) * gradient;
    };
    momentum = mixed(momentum);
    return config_.nesterov ? mixed(momentum) : momentum;
  }

  double adjustment(const ParameterStep& p) const {
    if (p.parameter.ndim() < 2) {
      return 1.0; // a vector that adamw_for_rest does not take: plain momentum, as in MLX
    }
    const double rows = p.parameter.shape(-2), columns = p.parameter.shape(-1);
    return config_.adjust_lr_fn == "original" ? std::sqrt(std::max(1.0, rows / columns))
                                              : 0.2 * std::sqrt(std::max(rows, columns));
  }

  // Replaces the updates of the rule's own matrices, those of one shape together.
  void orthogonalize(const std::vector<ParameterStep>& all, std::vector<mx::array>& updates) const {
    std::map<std::pair<int, int>, std::vector<std::size_t>> by_shape;
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (updates[i].ndim() >= 2 && is_own(all[i].name, all[i].parameter)) {
        by_shape[std::minmax({updates[i].shape(-2), updates[i].shape(-1)})].push_back(i);
      }
    }
    for (const auto& [shape, members] : by_shape) {
      const auto size = static_cast<std::size_t>(shape.first) * static_cast<std::size_t>(shape.second);
      const std::size_t most = size > kMostBatched ? 1 : std::max<std::size_t>(1, kBatchElements / size);
      for (std::size_t begin = 0; begin < members.size(); begin += most) {
        const auto end = std::min(members.size(), begin + most);
        orthogonalize_batch({members.begin() + static_cast<std::ptrdiff_t>(begin),
                             members.begin() + static_cast<std::ptrdiff_t>(end)},
                            updates);
      }
    }
  }

  // All of one shape, or its transpose; stacked matrices (experts) count as several.
  void orthogonalize_batch(const std::vector<std::size_t>& members, std::vector<mx::array>& updates) const {
    std::vector<mx::array> wide;
    mx::Shape ends;
    int count = 0;
    const auto is_tall = [](const mx::array& x) { return x.shape(-2) > x.shape(-1); };
    for (const auto i : members) {
      const auto turned = is_tall(updates[i]) ? mx::swapaxes(updates[i], -1, -2) : updates[i];
      wide.push_back(mx::reshape(turned, {-1, turned.shape(-2), turned.shape(-1)}));
      count += wide.back().shape(0);
      ends.push_back(count);
    }
    ends.pop_back();
    const auto parts = mx::split(orthogonalized(mx::concatenate(wide, 0), config_.ns_steps), ends, 0);
    for (std::size_t k = 0; k < members.size(); ++k) {
      auto& update = updates[members[k]];
      auto shape = update.shape();
      if (is_tall(update)) {
        std::swap(shape[shape.size() - 1], shape[shape.size() - 2]);
        update = mx::swapaxes(mx::reshape(parts[k], shape), -1, -2);
      } else {
        update = mx::reshape(parts[k], shape);
      }
    }
  }

  MuonConfig config_;
  std::unique_ptr<UpdateRule> rest_;
};

} // namespace

std::unique_ptr<UpdateRule> make_muon(const OptimizerConfig& config) {
  return std::make_unique<Muon>(config);
}

} // namespace temper
