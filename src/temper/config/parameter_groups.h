// Parameter groups: learning rate and weight decay by a parameter's name.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "temper/base/json.h"

namespace temper {

struct ParameterGroup {
  std::string match;                    // a glob of the whole name: * any characters, ? one
  double learning_rate_ratio = 1.0;     // multiplies the schedule's learning rate
  std::optional<double> weight_decay{}; // instead of the optimizer's; also where that would not decay
};

// The configuration's `parameter_groups`: an object or a list of them, keyed as the members are named; null:
// none. Throws ConfigError.
std::vector<ParameterGroup> read_parameter_groups(const Json& json);

// The first group whose pattern fits; nullptr if none does.
const ParameterGroup* group_of(const std::vector<ParameterGroup>& groups, const std::string& name);

} // namespace temper
