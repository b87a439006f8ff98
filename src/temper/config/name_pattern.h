// Patterns of the names of parameters and layers: * and ? stand for any text and any character, dots too.
#pragma once

#include <string>

#include "temper/base/json.h"

namespace temper {

bool fits_pattern(const std::string& pattern, const std::string& name);

// The "match" of one entry of a list of settings. Throws ConfigError if it is missing, empty or no text;
// `entry` names the entry in the message and `example` shows what is meant.
std::string read_match(const Json& json, const std::string& entry, const std::string& example);

} // namespace temper
