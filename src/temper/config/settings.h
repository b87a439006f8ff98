// Values on their way into a struct: read from each source against a field list, then applied weakest first.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "temper/config/field.h"

namespace temper {

enum class SettingLevel : int { file = 1, environment = 2, flags = 3 };

struct Setting {
  const Field* field = nullptr;
  std::string part;       // of a Json object, e.g. train_split
  bool by_choice = false; // of the selected variant, whatever `field`'s is: optimizer_config.eps
  ConfigValue value;
  std::string name; // "run.yaml:7: iters", "TEMPER_ITERS", "--iters": opens every message about it
  SettingLevel level = SettingLevel::file;
};

// Every leaf of `tree`, whose keys are the fields' names, nested or dotted. Null members are left out: they
// mean the default. `what` names the whole in messages. Throws ConfigError on an unknown key.
std::vector<Setting> read_tree(const FieldList& list, const ConfigValue& tree, const std::string& what);

// --name VALUE, --name=VALUE, dashes or underscores, dotted or by alias; booleans also bare or as --no-name.
// What is not a flag goes to positional fields in order. `command` is named in hints ("temper train").
// Throws ConfigError on an unknown flag, a missing value or a stray argument.
std::vector<Setting> read_flags(const FieldList& list, const std::vector<std::string>& arguments,
                                const std::string& command);

// TEMPER_ITERS, TEMPER_LORA_PARAMETERS_RANK ...: empty ones are left out. Warns about a TEMPER_ name that is
// near to a known one.
std::vector<Setting> read_environment(const FieldList& list);

// The strongest setting that each key got.
using StrongestSettings = std::map<std::string, const Setting*>;

// Assigns in order of level, then resolves pairs that exclude each other (Field::unless): the stronger
// source wins, the same source twice is an error. `defaults` must list the same fields of a fresh struct.
// Throws ConfigError.
StrongestSettings apply(const FieldList& list, const FieldList& defaults, const std::vector<Setting>& settings);

// Whether the field that `field` gives way to is in force.
bool is_displaced(const FieldList& list, const FieldList& defaults, const Field& field);

} // namespace temper
