// Finding an optimizer or a schedule by its name.
#pragma once

#include <string>
#include <vector>

#include "temper/base/error.h"
#include "temper/config/nearest.h"

namespace temper {

// The entry of that name in a table of entries with names. Throws ConfigError, which names the setting and all
// that it may be.
template <class Table>
const auto& registered(const Table& table, const std::string& setting, const std::string& name) {
  std::vector<std::string> names;
  std::string all;
  for (const auto& entry : table) {
    if (name == entry.name) {
      return entry;
    }
    names.emplace_back(entry.name);
    all += (all.empty() ? "" : ", ") + names.back();
  }
  throw ConfigError(setting + ": " + name + " is not one of " + all + did_you_mean(name, names));
}

} // namespace temper
