// A configuration value before it meets its field: a tree read from YAML, JSON, a flag or a variable, each
// part knowing where it was written.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "temper/base/json.h"

namespace temper {

struct ConfigValue {
  enum class Kind {
    null,
    text,  // an unquoted YAML scalar, a flag's or a variable's value: the field decides what it means
    typed, // a JSON scalar, or a quoted YAML string
    list,
    map
  };

  Kind kind = Kind::null;
  std::string text;               // Kind::text
  Json scalar = nullptr;          // Kind::typed
  std::vector<ConfigValue> items; // Kind::list
  struct Member;
  std::vector<Member> members; // Kind::map, in the order written
  std::string where;           // "run.yaml:12", "--iters", "TEMPER_ITERS"; empty for JSON

  static ConfigValue of_text(std::string text, std::string where);

  // As a value of no particular field: text becomes null, bool, number or string as in YAML 1.2's core
  // schema, with PyYAML's yes/no and mlx-lm's 1e-5.
  Json to_json() const;

  // What was written, for messages: 'many', [1, 2], {...}.
  std::string shown() const;
};

struct ConfigValue::Member {
  std::string key;
  ConfigValue value;
};

// Parses `source`; `origin` names it in positions. Anchors and aliases work, merge keys don't.
// Throws ConfigError "origin:line: ..." if it is not YAML or gives a key twice.
ConfigValue parse_yaml(const std::string& source, const std::string& origin);

ConfigValue from_json(const Json& json);

// What text means to a field of that type; false if it means nothing.
bool parse_bool(std::string_view text, bool& value);           // true/false, yes/no, on/off in any case, 1/0
bool parse_integer(std::string_view text, Json& value);        // 100, -1, 1_000, 1e3; as int64 or uint64
bool parse_number(std::string_view text, double& value);       // 1e-5, .5, 20; never inf or nan
bool parse_bytes(std::string_view text, std::uint64_t& value); // 1500000, 1.5M, 2GB (powers of ten), 2GiB

} // namespace temper
