#include "temper/config/name_pattern.h"

#include <fnmatch.h>

#include "temper/base/error.h"

namespace temper {

bool fits_pattern(const std::string& pattern, const std::string& name) {
  return ::fnmatch(pattern.c_str(), name.c_str(), FNM_NOESCAPE) == 0;
}

std::string read_match(const Json& json, const std::string& entry, const std::string& example) {
  const Json match = json.value("match", Json());
  if (!match.is_string() || match.get_ref<const std::string&>().empty()) {
    throw ConfigError(entry + ": needs match, a pattern of " + example);
  }
  return match.get<std::string>();
}

} // namespace temper
