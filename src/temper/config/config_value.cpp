#include "temper/config/config_value.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <map>
#include <utility>

#include <yaml-cpp/yaml.h>

#include "temper/base/error.h"
#include "temper/base/text.h"

namespace temper {
namespace {

bool is_null(const std::string& text) {
  return text.empty() || text == "~" || text == "null" || text == "Null" || text == "NULL";
}

std::string place(const std::string& origin, const YAML::Mark& mark) {
  return mark.is_null() ? origin : origin + ":" + std::to_string(mark.line + 1);
}

ConfigValue from_yaml(const YAML::Node& node, const std::string& origin, int depth);

void read_members(ConfigValue& value, const YAML::Node& node, const std::string& origin, int depth) {
  std::map<std::string, std::string> seen;
  for (const auto& member : node) {
    const std::string where = place(origin, member.first.Mark());
    if (!member.first.IsScalar()) {
      throw ConfigError(where + ": a key must be a plain name");
    }
    const std::string& key = member.first.Scalar();
    if (const auto [first, is_new] = seen.emplace(key, where); !is_new) {
      throw ConfigError(where + ": '" + key + "' is given twice, first at " + first->second);
    }
    ConfigValue child = from_yaml(member.second, origin, depth);
    if (child.where == origin) {
      child.where = where; // an empty value has no place of its own
    }
    value.members.push_back({key, std::move(child)});
  }
}

ConfigValue from_yaml(const YAML::Node& node, const std::string& origin, int depth) {
  constexpr int kMaxDepth = 32; // an alias may point at its own parent
  ConfigValue value;
  value.where = place(origin, node.Mark());
  if (depth > kMaxDepth) {
    throw ConfigError(value.where + ": nested too deeply");
  }
  if (node.IsMap()) {
    value.kind = ConfigValue::Kind::map;
    read_members(value, node, origin, depth + 1);
  } else if (node.IsSequence()) {
    value.kind = ConfigValue::Kind::list;
    for (const YAML::Node& item : node) {
      value.items.push_back(from_yaml(item, origin, depth + 1));
    }
  } else if (node.IsScalar() && node.Tag() == "!") { // quoted, or a block of text
    value.kind = ConfigValue::Kind::typed;
    value.scalar = node.Scalar();
  } else if (node.IsScalar() && !is_null(node.Scalar())) {
    value.kind = ConfigValue::Kind::text;
    value.text = node.Scalar();
  }
  return value;
}

} // namespace

ConfigValue ConfigValue::of_text(std::string text, std::string where) {
  ConfigValue value;
  value.kind = Kind::text;
  value.text = std::move(text);
  value.where = std::move(where);
  return value;
}

Json ConfigValue::to_json() const {
  switch (kind) {
    case Kind::null:
      return nullptr;
    case Kind::typed:
      return scalar;
    case Kind::list: {
      Json list = Json::array();
      for (const ConfigValue& item : items) {
        list.push_back(item.to_json());
      }
      return list;
    }
    case Kind::map: {
      Json map = Json::object();
      for (const auto& [key, member] : members) {
        map[key] = member.to_json();
      }
      return map;
    }
    case Kind::text:
      break;
  }
  Json integer;
  bool flag = false;
  double number = 0;
  if (is_null(text)) {
    return nullptr;
  }
  if (text.find_first_not_of("+-0123456789") == std::string::npos && parse_integer(text, integer)) {
    return integer;
  }
  if (parse_number(text, number)) {
    return number;
  }
  return parse_bool(text, flag) ? Json(flag) : Json(text);
}

std::string ConfigValue::shown() const {
  if (kind == Kind::text) {
    return "'" + text + "'";
  }
  std::string json = dump(to_json());
  constexpr std::size_t kMaxShown = 60;
  return json.size() > kMaxShown ? json.substr(0, kMaxShown) + "..." : json;
}

ConfigValue parse_yaml(const std::string& source, const std::string& origin) {
  try {
    return from_yaml(YAML::Load(source), origin, 0);
  } catch (const YAML::Exception& error) {
    throw ConfigError(place(origin, error.mark) + ": not valid YAML: " + error.msg);
  }
}

ConfigValue from_json(const Json& json) {
  ConfigValue value;
  if (json.is_object()) {
    value.kind = ConfigValue::Kind::map;
    for (const auto& [key, member] : json.items()) {
      value.members.push_back({key, from_json(member)});
    }
  } else if (json.is_array()) {
    value.kind = ConfigValue::Kind::list;
    for (const Json& item : json) {
      value.items.push_back(from_json(item));
    }
  } else if (!json.is_null()) {
    value.kind = ConfigValue::Kind::typed;
    value.scalar = json;
  }
  return value;
}

bool parse_bool(std::string_view text, bool& value) {
  const std::string word = lower(text);
  if (word == "true" || word == "yes" || word == "on" || word == "1") {
    value = true;
  } else if (word == "false" || word == "no" || word == "off" || word == "0") {
    value = false;
  } else {
    return false;
  }
  return true;
}

bool parse_integer(std::string_view text, Json& value) {
  std::string digits(text);
  digits.erase(std::remove(digits.begin(), digits.end(), '_'), digits.end());
  const std::size_t sign = !digits.empty() && (digits[0] == '-' || digits[0] == '+') ? 1 : 0;
  const bool plain = digits.size() > sign && digits.find_first_not_of("0123456789", sign) == std::string::npos;
  errno = 0;
  if (plain && digits[0] == '-') {
    value = std::strtoll(digits.c_str(), nullptr, 10);
    return errno == 0;
  }
  if (plain) {
    value = std::strtoull(digits.c_str(), nullptr, 10);
    return errno == 0;
  }
  constexpr double kLargestExact = 9007199254740992.0; // 2^53
  double number = 0;
  if (!parse_number(text, number) || number != std::floor(number) || std::fabs(number) > kLargestExact) {
    return false;
  }
  value = static_cast<std::int64_t>(number);
  return true;
}

bool parse_number(std::string_view text, double& value) {
  std::string digits(text);
  digits.erase(std::remove(digits.begin(), digits.end(), '_'), digits.end());
  if (digits.empty() || digits.find_first_not_of("+-.0123456789eE") != std::string::npos) {
    return false;
  }
  char* end = nullptr;
  value = std::strtod(digits.c_str(), &end);
  return end == digits.c_str() + digits.size() && std::isfinite(value);
}

bool parse_bytes(std::string_view text, std::uint64_t& value) {
  static const std::map<std::string, double> kUnits = {{"", 1},
                                                       {"b", 1},
                                                       {"k", 1e3},
                                                       {"kb", 1e3},
                                                       {"m", 1e6},
                                                       {"mb", 1e6},
                                                       {"g", 1e9},
                                                       {"gb", 1e9},
                                                       {"t", 1e12},
                                                       {"tb", 1e12},
                                                       {"kib", 1024.0},
                                                       {"mib", 1048576.0},
                                                       {"gib", 1073741824.0},
                                                       {"tib", 1099511627776.0}};
  const std::size_t split = std::min(text.find_first_not_of(".0123456789"), text.size());
  std::string_view unit = text.substr(split);
  unit.remove_prefix(std::min(unit.find_first_not_of(' '), unit.size()));
  const auto factor = kUnits.find(lower(unit));
  double number = 0;
  if (factor == kUnits.end() || !parse_number(text.substr(0, split), number)) {
    return false;
  }
  constexpr double kLimit = 9.2e18;
  if (number * factor->second > kLimit) {
    return false;
  }
  value = static_cast<std::uint64_t>(std::llround(number * factor->second));
  return true;
}

} // namespace temper
