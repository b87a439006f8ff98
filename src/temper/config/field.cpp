#include "temper/config/field.h"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "temper/base/error.h"
#include "temper/base/text.h"
#include "temper/config/nearest.h"

namespace temper {
namespace {

using Kind = ConfigValue::Kind;

[[noreturn]] void fail(const std::string& name, const std::string& what) {
  throw ConfigError(name + (what.starts_with(' ') ? "" : ": ") + what);
}

[[noreturn]] void wrong_type(const std::string& name, const char* expected, const ConfigValue& value) {
  fail(name, fmt::format("expected {}, got {}", expected, value.shown()));
}

bool is_none(const ConfigValue& value) {
  return value.kind == Kind::null ||
         (value.kind == Kind::text && (value.text == "null" || value.text == "none"));
}

template <class T>
T read_integer(const ConfigValue& value, const std::string& name, bool in_bytes) {
  const char* expected = in_bytes ? "a size such as 500M or 2GB" : "a whole number";
  Json number = value.scalar;
  std::uint64_t bytes = 0;
  const bool is_text = value.kind == Kind::text || number.is_string();
  const std::string text = value.kind == Kind::text ? value.text : is_text ? number.get<std::string>() : "";
  if (in_bytes && is_text && parse_bytes(text, bytes)) {
    number = bytes;
  } else if (value.kind == Kind::text && !parse_integer(text, number)) {
    wrong_type(name, expected, value);
  }
  constexpr double kLargestExact = 9007199254740992.0; // 2^53
  if (number.is_number_float() && std::fabs(number.get<double>()) <= kLargestExact &&
      number.get<double>() == std::trunc(number.get<double>())) {
    number = number.get<std::int64_t>(); // JavaScript has no whole numbers
  }
  if (!number.is_number_integer()) {
    wrong_type(name, expected, value);
  }
  if (!number.is_number_unsigned() && std::is_unsigned_v<T> && number.get<std::int64_t>() < 0) {
    fail(name, fmt::format(" must be at least 0, got {}", number.get<std::int64_t>()));
  }
  const bool fits = number.is_number_unsigned() ? std::in_range<T>(number.get<std::uint64_t>())
                                                : std::in_range<T>(number.get<std::int64_t>());
  if (!fits) {
    fail(name, fmt::format("{} is out of range", value.shown()));
  }
  return number.get<T>();
}

double read_number(const ConfigValue& value, const std::string& name) {
  double number = 0;
  if (value.kind == Kind::typed && value.scalar.is_number()) {
    number = value.scalar.get<double>();
  } else if (value.kind != Kind::text || !parse_number(value.text, number)) {
    wrong_type(name, "a number", value);
  }
  return number;
}

std::string read_text(const ConfigValue& value, const std::string& name) {
  if (value.kind == Kind::text) {
    return value.text;
  }
  if (value.kind != Kind::typed || !value.scalar.is_string()) {
    wrong_type(name, "text", value);
  }
  return value.scalar.get<std::string>();
}

bool read_bool(const ConfigValue& value, const std::string& name) {
  bool flag = false;
  if (value.kind == Kind::typed && value.scalar.is_boolean()) {
    flag = value.scalar.get<bool>();
  } else if (value.kind != Kind::text || !parse_bool(value.text, flag)) {
    wrong_type(name, "true or false", value);
  }
  return flag;
}

// A list's items: a real list, [a, b] written as text, a,b where the field splits, or the one value.
std::vector<ConfigValue> items_of(const ConfigValue& value, bool splits) {
  if (value.kind == Kind::list) {
    return value.items;
  }
  if (value.kind != Kind::text) {
    return {value};
  }
  if (splits && value.text.starts_with('[')) {
    ConfigValue list = parse_yaml(value.text, value.where);
    return list.kind == Kind::list ? list.items : std::vector<ConfigValue>{value};
  }
  std::vector<ConfigValue> items;
  std::size_t begin = 0;
  while (splits && begin <= value.text.size()) {
    const std::size_t end = std::min(value.text.find(',', begin), value.text.size());
    if (end > begin) {
      items.push_back(ConfigValue::of_text(value.text.substr(begin, end - begin), value.where));
    }
    begin = end + 1;
  }
  return splits ? items : std::vector<ConfigValue>{value};
}

void check_parts(const Json& object, const Field& field, const std::string& name) {
  if (!object.is_object()) {
    fail(name, "expected an object or a list of objects, got " + dump(object));
  }
  for (const auto& [key, unused] : object.items()) {
    if (std::find(field.part_names.begin(), field.part_names.end(), key) == field.part_names.end()) {
      fail(name, fmt::format("unknown key '{}'{}", key, did_you_mean(key, field.part_names)));
    }
  }
}

Json read_object(const ConfigValue& value, const Field& field, const std::string& name) {
  Json json = value.to_json();
  if (value.kind == Kind::text) { // a flag's value: JSON, or just the first part
    json = value.text.starts_with('{') || value.text.starts_with('[')
               ? parse_yaml(value.text, name).to_json()
               : Json{{field.part_names.front(), value.text}};
  } else if (json.is_string()) {
    json = Json{{field.part_names.front(), json}};
  }
  if (!json.is_array()) {
    check_parts(json, field, name);
    return json;
  }
  for (Json& item : json) {
    if (field.parts_in_order && item.is_array() && item.size() == field.part_names.size()) {
      Json object = Json::object();
      for (std::size_t i = 0; i < item.size(); ++i) {
        object[field.part_names[i]] = item[i];
      }
      item = std::move(object);
    }
    check_parts(item, field, name);
  }
  return json;
}

struct Assign {
  const Field& field;
  const ConfigValue& value;
  const std::string& name;
  const std::string& part;

  void operator()(bool* target) const {
    *target = read_bool(value, name);
  }
  template <class T>
  void operator()(T* target) const
    requires std::is_integral_v<T>
  {
    *target = read_integer<T>(value, name, field.in_bytes);
  }
  void operator()(double* target) const {
    *target = read_number(value, name);
  }
  void operator()(std::string* target) const {
    if (field.splits && value.kind == Kind::list) {
      std::string joined;
      for (const ConfigValue& item : value.items) {
        joined += (joined.empty() ? "" : ",") + read_text(item, name);
      }
      *target = joined;
      return;
    }
    *target = read_text(value, name);
    if (!field.choices.empty()) {
      *target = lower(*target);
    }
  }
  template <class T>
  void operator()(std::optional<T>* target) const {
    if (is_none(value)) {
      target->reset();
    } else {
      (*this)(&target->emplace());
    }
  }
  template <class T>
  void operator()(std::vector<T>* target) const {
    target->clear();
    for (const ConfigValue& item : items_of(value, field.splits)) {
      Assign{field, item, name, part}(&target->emplace_back());
    }
  }
  void operator()(Json* target) const {
    if (part.empty()) {
      *target = read_object(value, field, name);
      return;
    }
    if (target->is_array()) {
      fail(name, "is a list here; set its entries in the configuration file");
    }
    (*target)[part] = value.to_json();
  }
};

} // namespace

Field::Field(std::string key_, std::string group_, Target target_, std::string help_)
    : key(std::move(key_)), group(std::move(group_)), target(target_), help(std::move(help_)) {
}

Field& Field::at_least(double bound) {
  min = bound;
  return *this;
}
Field& Field::above(double bound) {
  min = bound;
  excludes_min = true;
  return *this;
}
Field& Field::at_most(double bound) {
  max = bound;
  return *this;
}
Field& Field::below(double bound) {
  max = bound;
  excludes_max = true;
  return *this;
}
Field& Field::one_of(std::vector<std::string> names) {
  choices = std::move(names);
  return *this;
}
Field& Field::refuse(std::string choice, std::string why) {
  refused.emplace_back(std::move(choice), std::move(why));
  return *this;
}
Field& Field::size_in_bytes() {
  in_bytes = true;
  return *this;
}
Field& Field::commas() {
  splits = true;
  return *this;
}
Field& Field::exactly(std::size_t count) {
  list_size = count;
  return *this;
}
Field& Field::parts(std::vector<std::string> names) {
  part_names = std::move(names);
  return *this;
}
Field& Field::in_order() {
  parts_in_order = true;
  return *this;
}
Field& Field::alias(std::string name) {
  aliases.push_back(std::move(name));
  return *this;
}
Field& Field::letter(char name) {
  short_name = name;
  return *this;
}
Field& Field::metavar(std::string name) {
  value_name = std::move(name);
  return *this;
}
Field& Field::unless(std::string other) {
  gives_way_to = std::move(other);
  return *this;
}
Field& Field::only_for(std::string selector_, std::vector<std::string> names) {
  selector = std::move(selector_);
  applies_to = std::move(names);
  return *this;
}
Field& Field::mlx_lm(Json value) {
  mlx_lm_default = std::move(value);
  return *this;
}
Field& Field::required() {
  is_required = true;
  return *this;
}
Field& Field::positional() {
  is_positional = true;
  return *this;
}

void Field::assign(const ConfigValue& value, const std::string& name, const std::string& part) const {
  std::visit(Assign{*this, value, name, part}, target);
  check(name);
}

void Field::assign_json(const Json& json) const {
  if (json.is_null() && std::holds_alternative<Json*>(target)) {
    *std::get<Json*>(target) = nullptr;
  } else {
    std::visit(Assign{*this, from_json(json), key, {}}, target);
  }
}

std::string Field::range() const {
  const std::string low = min ? fmt::format("{} {}", excludes_min ? "above" : "at least", *min) : "";
  const std::string high = max ? fmt::format("{} {}", excludes_max ? "below" : "at most", *max) : "";
  return low + (min && max ? " and " : "") + high;
}

void Field::check(const std::string& name) const {
  const auto check_number = [&](double number) {
    const bool low = min && (excludes_min ? number <= *min : number < *min);
    const bool high = max && (excludes_max ? number >= *max : number > *max);
    if (low || high || number != number || number - number != 0) {
      fail(name, fmt::format(" must be {}, got {}", min || max ? range() : "a finite number", number));
    }
  };
  const Json present = value();
  if (list_size && present.size() != *list_size) {
    fail(name, fmt::format(" takes {} numbers, got {}", *list_size, present.size()));
  }
  for (const Json& item : present.is_array() && part_names.empty() ? present : Json::array({present})) {
    if (item.is_number()) {
      check_number(item.get<double>());
    } else if (item.is_string() && !choices.empty() &&
               std::find(choices.begin(), choices.end(), item.get<std::string>()) == choices.end()) {
      const std::string text = item.get<std::string>();
      for (const auto& [choice, why] : refused) {
        if (text == choice) {
          fail(name, fmt::format("'{}' {}", text, why));
        }
      }
      fail(name, fmt::format(" must be one of {}, got '{}'{}", fmt::join(choices, ", "), text,
                             did_you_mean(text, choices)));
    }
  }
}

Json Field::value() const {
  return std::visit(
      [](auto* member) -> Json {
        if constexpr (requires { member->has_value(); }) {
          return member->has_value() ? Json(**member) : Json(nullptr);
        } else {
          return Json(*member);
        }
      },
      target);
}

bool Field::is_flag() const {
  return std::holds_alternative<bool*>(target);
}

bool Field::is_list() const {
  return std::holds_alternative<std::vector<std::string>*>(target) ||
         std::holds_alternative<std::vector<double>*>(target);
}

bool Field::is_optional() const {
  return std::holds_alternative<std::optional<int>*>(target) ||
         std::holds_alternative<std::optional<double>*>(target);
}

std::string Field::place() const {
  if (!value_name.empty()) {
    return value_name;
  }
  if (!choices.empty() && choices.size() <= 4) {
    return fmt::format("{}", fmt::join(choices, "|"));
  }
  switch (target.index()) {
    case 0:
      return "";
    case 1:
    case 2:
    case 3:
    case 6:
      return in_bytes ? "SIZE" : "N";
    case 4:
    case 7:
      return "X";
    case 9:
      return "X,X";
    default:
      return choices.empty() ? "TEXT" : "NAME";
  }
}

std::string Field::dashed() const {
  std::string flag = "--" + key;
  std::replace(flag.begin(), flag.end(), '_', '-');
  return flag;
}

} // namespace temper
