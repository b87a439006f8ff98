// Every optimizer: its rule's maker, and its line in the registry. The options are in
// temper/config/optimizer_config.h, under the same names.
#pragma once

#include <memory>

#include "temper/config/optimizer_config.h"
#include "temper/optim/update_rule.h"

namespace temper {

using MakeRule = std::unique_ptr<UpdateRule> (*)(const OptimizerConfig&);

std::unique_ptr<UpdateRule> make_adam(const OptimizerConfig& config);
std::unique_ptr<UpdateRule> make_adamw(const OptimizerConfig& config);
std::unique_ptr<UpdateRule> make_sgd(const OptimizerConfig& config);
std::unique_ptr<UpdateRule> make_lion(const OptimizerConfig& config);
std::unique_ptr<UpdateRule> make_adafactor(const OptimizerConfig& config);
std::unique_ptr<UpdateRule> make_muon(const OptimizerConfig& config);

struct RegisteredOptimizer {
  const char* name;
  MakeRule make;
};

inline constexpr RegisteredOptimizer kOptimizers[] = {
    {"adam", make_adam}, {"adamw", make_adamw},         {"sgd", make_sgd},
    {"lion", make_lion}, {"adafactor", make_adafactor}, {"muon", make_muon},
};

} // namespace temper
