#include "temper/config/parameter_groups.h"

#include <algorithm>

#include <fnmatch.h>

namespace temper {

const ParameterGroup* group_of(const std::vector<ParameterGroup>& groups, const std::string& name) {
  const auto found = std::find_if(groups.begin(), groups.end(), [&](const ParameterGroup& group) {
    return ::fnmatch(group.match.c_str(), name.c_str(), FNM_NOESCAPE) == 0;
  });
  return found == groups.end() ? nullptr : &*found;
}

} // namespace temper
