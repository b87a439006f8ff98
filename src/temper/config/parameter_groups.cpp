#include "temper/config/parameter_groups.h"

#include <algorithm>

#include <fmt/format.h>

#include "temper/base/error.h"
#include "temper/config/name_pattern.h"

namespace temper {
namespace {

double read_number(const Json& json, const std::string& name) {
  if (!json.is_number() || json.get<double>() < 0) {
    throw ConfigError(fmt::format("{} must be a number of at least 0, got {}", name, dump(json)));
  }
  return json.get<double>();
}

ParameterGroup read_group(const Json& json, const std::string& name) {
  ParameterGroup group;
  group.match = read_match(json, name, "parameter names such as \"*.lora_b\"");
  if (json.contains("learning_rate_ratio")) {
    group.learning_rate_ratio = read_number(json["learning_rate_ratio"], name + ".learning_rate_ratio");
  }
  if (json.contains("weight_decay")) {
    group.weight_decay = read_number(json["weight_decay"], name + ".weight_decay");
  }
  return group;
}

} // namespace

std::vector<ParameterGroup> read_parameter_groups(const Json& json) {
  std::vector<ParameterGroup> groups;
  if (!json.is_null()) {
    for (const Json& item : json.is_array() ? json : Json::array({json})) {
      groups.push_back(read_group(item, fmt::format("parameter_groups[{}]", groups.size())));
    }
  }
  return groups;
}

const ParameterGroup* group_of(const std::vector<ParameterGroup>& groups, const std::string& name) {
  const auto found = std::find_if(groups.begin(), groups.end(),
                                  [&](const ParameterGroup& group) { return fits_pattern(group.match, name); });
  return found == groups.end() ? nullptr : &*found;
}

} // namespace temper
