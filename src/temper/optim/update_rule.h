// What an optimizer is: the state it keeps of a parameter, and its step. optimizer.h does the rest (names of
// the state, parameter groups, whose weights decay). Arrays are fp32 and everything is lazy: a rule is traced
// once into the compiled update and must not look at values.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "temper/nn/params.h"

namespace temper {

// A parameter's state by kind, e.g. "m" and "v"; a kind has no dot.
using Slots = std::map<std::string, mx::array>;

// One parameter in one step.
struct ParameterStep {
  std::string name;
  mx::array parameter;
  mx::array gradient;               // of the parameter's shape
  mx::array learning_rate;          // scalar: the schedule's, times learning_rate_ratio
  mx::array count;                  // scalar: this step's number, from 1
  double learning_rate_ratio = 1.0; // of the parameter's group
  double weight_decay = 0.0;        // 0 where nothing decays
  Slots state{};                    // before the step; the rule leaves it as it is after
};

class UpdateRule {
 public:
  virtual ~UpdateRule() = default;

  // The state that a parameter starts with.
  virtual Slots initial_state(const std::string& name, const mx::array& parameter) const = 0;

  // The parameter after the step.
  virtual mx::array step(ParameterStep& p) const = 0;

  // All parameters after the step, in order: for rules that take several at once.
  virtual std::vector<mx::array> step_all(std::vector<ParameterStep>& all) const;

  // The weight decay of a parameter that no group gives another; none: the rule knows no weight decay.
  virtual std::optional<double> weight_decay(const std::string& name, const mx::array& parameter) const = 0;

  // Whether each element moves by itself, so that parameters may be laid end to end.
  virtual bool is_elementwise() const {
    return false;
  }

  // Throws ConfigError if the rule has nothing to do for parameters like these.
  virtual void check(const Params&) const {
  }
};

// Whether weight decay applies to a tensor whose group doesn't say: matrices, not norms and biases.
bool decays(const std::string& name, const mx::array& parameter);

inline mx::array scalar(double value) {
  return mx::array(static_cast<float>(value));
}

// The parameter after a decay in proportion to the learning rate, beside the gradient.
// Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2, as torch.optim.AdamW has it.
inline mx::array decayed(const ParameterStep& p, const mx::array& learning_rate) {
  return p.weight_decay > 0 ? p.parameter * (scalar(1.0) - learning_rate * scalar(p.weight_decay))
                            : p.parameter;
}

} // namespace temper
