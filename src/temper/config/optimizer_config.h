// What optimizers are told: mlx-lm's `optimizer_config.<name>`, a struct an optimizer with the list of its keys
// beside its members. Their rules are in temper/optim/optimizers/.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "temper/base/error.h"
#include "temper/config/field.h"

namespace temper {

struct AdamConfig {
  std::vector<double> betas = {0.9, 0.999};
  double eps = 1e-8;
  bool bias_correction = true; // mlx-lm's default is false

  void list(FieldList& list) {
    list.add("betas", &betas, "decay of the two moments").exactly(2).at_least(0).below(1).commas();
    list.add("eps", &eps, "keeps the division finite").above(0);
    list.add("bias_correction", &bias_correction, "corrects the first steps' moments").mlx_lm(false);
  }
  void check() const {
  }
};

// Weight decay is never for norms and biases, whatever the optimizer.
inline void list_weight_decay(FieldList& list, double& weight_decay) {
  list.add("weight_decay", &weight_decay, "pull towards zero, never on norms and biases")
      .at_least(0)
      .alias("weight_decay");
}

struct AdamWConfig : AdamConfig {
  double weight_decay = 0.01;

  void list(FieldList& list) {
    AdamConfig::list(list);
    list_weight_decay(list, weight_decay);
  }
};

struct SgdConfig {
  double momentum = 0.0;
  double dampening = 0.0;
  bool nesterov = false;
  double weight_decay = 0.0;

  void list(FieldList& list) {
    list.add("momentum", &momentum, "share of the step before that is kept").at_least(0).below(1);
    list.add("dampening", &dampening, "share of the gradient that the momentum leaves out")
        .at_least(0)
        .below(1);
    list.add("nesterov", &nesterov, "look ahead along the momentum");
    list_weight_decay(list, weight_decay);
  }
  void check() const {
    if (nesterov && (momentum == 0 || dampening != 0)) {
      throw ConfigError("optimizer_config.sgd.nesterov needs a momentum above 0 and no dampening");
    }
  }
};

struct LionConfig {
  std::vector<double> betas = {0.9, 0.99};
  double weight_decay = 0.0;

  void list(FieldList& list) {
    list.add("betas", &betas, "momentum's share in the step, and its decay")
        .exactly(2)
        .at_least(0)
        .below(1)
        .commas();
    list_weight_decay(list, weight_decay);
  }
  void check() const {
  }
};

struct AdafactorConfig {
  std::vector<double> eps = {1e-30, 1e-3};
  double clip_threshold = 1.0;
  double decay_rate = -0.8;
  std::optional<double> beta_1;
  double weight_decay = 0.0;
  bool scale_parameter = false; // mlx-lm's default is true, of relative_step too
  bool relative_step = false;
  bool warmup_init = false;

  void list(FieldList& list) {
    list.add("eps", &eps, "added to squared gradients, and the least size that scale_parameter counts")
        .exactly(2)
        .above(0)
        .commas();
    list.add("clip_threshold", &clip_threshold, "largest root mean square of an update").above(0);
    list.add("decay_rate", &decay_rate, "the second moment's decay at step t is 1 - t^decay_rate")
        .at_least(-1)
        .below(0);
    list.add("beta_1", &beta_1, "decay of a first moment; none: there is none").at_least(0).below(1);
    list_weight_decay(list, weight_decay);
    list.add("scale_parameter", &scale_parameter, "steps in proportion to the size of what they change")
        .mlx_lm(true);
    list.add("relative_step", &relative_step, "1 / sqrt(t), at most 0.01, instead of the learning rate")
        .mlx_lm(true);
    list.add("warmup_init", &warmup_init, "with relative_step: at most t / 1,000,000");
  }
  void check() const {
    if (warmup_init && !relative_step) {
      throw ConfigError("optimizer_config.adafactor.warmup_init needs relative_step");
    }
  }
};

struct MuonConfig {
  double momentum = 0.95;
  bool nesterov = true;
  int ns_steps = 5;
  double weight_decay = 0.01;
  bool decoupled = true;      // mlx-lm adds the decay to the gradient
  bool adamw_for_rest = true; // mlx-lm gives Muon every parameter
  std::string adjust_lr_fn = "original";

  void list(FieldList& list) {
    list.add("momentum", &momentum, "decay of the momentum").at_least(0).below(1);
    list.add("nesterov", &nesterov, "look ahead along the momentum");
    list.add("ns_steps", &ns_steps, "Newton-Schulz iterations").at_least(1).at_most(99);
    list_weight_decay(list, weight_decay);
    list.add("decoupled", &decoupled, "decay the weights, as AdamW does; off: the gradient").mlx_lm(false);
    list.add("adamw_for_rest", &adamw_for_rest,
             "norms, biases, embeddings and head by AdamW, as optimizer_config.adamw says")
        .mlx_lm(false);
    list.add("adjust_lr_fn", &adjust_lr_fn,
             "the learning rate times sqrt(max(1, rows / columns)), or times 0.2 sqrt(max(rows, columns)), "
             "which makes steps as long as AdamW's")
        .one_of({"original", "match_rms_adamw"});
  }
  void check() const {
  }
};

struct OptimizerConfig {
  AdamConfig adam;
  AdamWConfig adamw; // Muon's too, for what it leaves to AdamW
  SgdConfig sgd;
  LionConfig lion;
  AdafactorConfig adafactor;
  MuonConfig muon;

  // Calls visit(name, options, names of the optimizers that read them) for each optimizer.
  template <class Config, class Visit>
  static void each(Config& c, Visit visit) {
    using Names = std::vector<std::string>;
    visit("adam", c.adam, Names{"adam"});
    visit("adamw", c.adamw, Names{"adamw", "muon"});
    visit("sgd", c.sgd, Names{"sgd"});
    visit("lion", c.lion, Names{"lion"});
    visit("adafactor", c.adafactor, Names{"adafactor"});
    visit("muon", c.muon, Names{"muon"});
  }
};

// What `optimizer` may be.
inline std::vector<std::string> optimizer_names() {
  std::vector<std::string> names;
  OptimizerConfig any;
  OptimizerConfig::each(any, [&](const char* name, auto&, auto&&) { names.emplace_back(name); });
  return names;
}

// The fields of every optimizer, meaningless unless the field `optimizer` names one that reads them.
inline void list_optimizers(FieldList& list, OptimizerConfig& config) {
  OptimizerConfig::each(config, [&](const char* name, auto& options, const auto& readers) {
    list.nested_for(name, "optimizer", readers, [&](FieldList& nested) { options.list(nested); });
  });
}

// Options of `optimizer` that contradict each other. Throws ConfigError.
inline void check_optimizer(const std::string& optimizer, const OptimizerConfig& config) {
  OptimizerConfig::each(config, [&](const char* name, const auto& options, const auto&) {
    if (optimizer == name) {
      options.check();
    }
  });
}

} // namespace temper
