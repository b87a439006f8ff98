#include "temper/config/describe.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "temper/config/settings.h"

namespace temper {
namespace {

constexpr std::size_t kHelpColumn = 34;
constexpr std::size_t kHelpWidth = 100;

std::vector<std::string> path_of(const Field& field) {
  std::vector<std::string> path;
  std::size_t begin = 0;
  for (std::size_t dot; (dot = field.key.find('.', begin)) != std::string::npos; begin = dot + 1) {
    path.push_back(field.key.substr(begin, dot - begin));
  }
  path.push_back(field.key.substr(begin));
  return path;
}

std::string yaml_scalar(const Json& value) {
  if (!value.is_string()) {
    return dump(value);
  }
  const std::string& text = value.get_ref<const std::string&>();
  const bool is_plain =
      !text.empty() && text.back() != ' ' && std::isalpha(static_cast<unsigned char>(text[0])) &&
      text.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./- ") ==
          std::string::npos;
  return is_plain && ConfigValue::of_text(text, "").to_json() == value ? text : dump(value);
}

void write_yaml(std::string& out, const std::string& key, const Json& value, int indent) {
  out += fmt::format("{:{}}{}:", "", indent, key);
  if (!value.is_object() || value.empty()) {
    out += fmt::format(" {}\n", yaml_scalar(value));
    return;
  }
  out += '\n';
  for (const auto& [name, member] : value.items()) {
    write_yaml(out, name, member, indent + 2);
  }
}

Json schema_of_item(const Field& field) {
  Json schema = Json::object();
  switch (field.target.index()) {
    case 0:
      schema["type"] = "boolean";
      break;
    case 1:
    case 2:
    case 3:
    case 6:
      schema["type"] = "integer";
      break;
    case 4:
    case 7:
    case 9:
      schema["type"] = "number";
      break;
    case 10:
      break; // an object or a list of objects
    default:
      schema["type"] = "string";
  }
  if (field.target.index() == 3 && !field.min) {
    schema["minimum"] = 0;
  }
  if (field.min) {
    schema[field.excludes_min ? "exclusiveMinimum" : "minimum"] = *field.min;
  }
  if (field.max) {
    schema[field.excludes_max ? "exclusiveMaximum" : "maximum"] = *field.max;
  }
  if (!field.choices.empty()) {
    schema["enum"] = field.choices;
  }
  return schema;
}

Json schema_of_parts(const Field& field) {
  Json object{{"type", "object"}, {"additionalProperties", false}, {"properties", Json::object()}};
  for (const std::string& part : field.part_names) {
    object["properties"][part] = Json::object();
  }
  const Json item =
      field.parts_in_order ? Json{{"anyOf", Json::array({object, Json{{"type", "array"}}})}} : object;
  return Json{
      {"anyOf", Json::array({object, Json{{"type", "array"}, {"items", item}}, Json{{"type", "null"}}})}};
}

Json schema_of_field(const Field& field) {
  Json schema = schema_of_item(field);
  if (!field.part_names.empty()) {
    schema = schema_of_parts(field);
  } else if (field.is_list()) {
    schema = Json{{"type", "array"}, {"items", schema}};
    if (field.list_size) {
      schema["minItems"] = schema["maxItems"] = *field.list_size;
    }
  } else if (field.is_optional() || !field.gives_way_to.empty()) {
    schema["type"] = Json::array({schema["type"], "null"});
  }
  schema["description"] = field.help;
  schema["default"] = field.value();
  return schema;
}

// The object that holds `path`'s last key, made on the way.
Json& properties_at(Json& schema, const std::vector<std::string>& path) {
  Json* object = &schema;
  for (std::size_t i = 0; i + 1 < path.size(); ++i) {
    Json& child = (*object)["properties"][path[i]];
    if (child.is_null()) {
      child = Json{{"type", "object"}, {"additionalProperties", false}, {"properties", Json::object()}};
    }
    object = &child;
  }
  return (*object)["properties"];
}

std::string shown_default(const Field& field) {
  const Json value = field.value();
  if (value.is_null() || (value.is_string() && value.get_ref<const std::string&>().empty()) ||
      (value.is_array() && value.empty())) {
    return "";
  }
  if (field.is_flag()) {
    return value.get<bool>() ? "on" : "off";
  }
  if (value.is_array()) {
    std::vector<std::string> items;
    for (const Json& item : value) {
      items.push_back(item.is_string() ? item.get<std::string>() : dump(item));
    }
    return fmt::format("{}", fmt::join(items, ","));
  }
  return value.is_string() ? value.get<std::string>() : dump(value);
}

std::string wrapped(const std::string& text, std::size_t column) {
  std::string out;
  std::size_t width = column;
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find(' ', begin), text.size());
    const std::string word = text.substr(begin, end - begin);
    if (width > column && width + 1 + word.size() > kHelpWidth) {
      out += fmt::format("\n{:{}}", "", column);
      width = column;
    } else if (width > column) {
      out += ' ';
      ++width;
    }
    out += word;
    width += word.size();
    begin = end + 1;
  }
  return out;
}

std::string spelling(const Field& field) {
  if (field.is_positional) {
    return fmt::format("{}{}", field.place(), field.is_list() ? "..." : "");
  }
  std::vector<std::string> names;
  if (field.short_name != 0) {
    names.push_back(fmt::format("-{}", field.short_name));
  }
  for (std::string alias : field.aliases) {
    std::replace(alias.begin(), alias.end(), '_', '-');
    names.push_back(fmt::format("--{}", alias));
  }
  names.push_back(field.dashed());
  if (field.is_flag() && field.value().get<bool>()) {
    names.push_back("--no-" + field.dashed().substr(2));
  }
  const std::string place = field.place();
  return fmt::format("{}{}{}", fmt::join(names, ", "), place.empty() ? "" : " ", place);
}

std::string cell(const std::string& text) {
  std::string out;
  for (const char c : text) {
    out += c == '|' ? "\\|" : std::string(1, c);
  }
  return out;
}

} // namespace

Json values_as_json(const FieldList& list, const FieldList& defaults) {
  Json tree = Json::object();
  for (const Field& field : list.fields()) {
    if (!list.applies(field)) {
      continue;
    }
    Json* at = &tree;
    for (const std::string& name : path_of(field)) {
      at = &(*at)[name];
    }
    *at = is_displaced(list, defaults, field) ? Json(nullptr) : field.value();
  }
  return tree;
}

std::string values_as_yaml(const FieldList& list, const FieldList& defaults) {
  std::string out;
  std::string group;
  const Json tree = values_as_json(list, defaults);
  for (const auto& [key, value] : tree.items()) {
    const auto field =
        std::find_if(list.fields().begin(), list.fields().end(),
                     [&, name = key](const Field& f) { return f.key.substr(0, f.key.find('.')) == name; });
    if (field->group != group) {
      group = field->group;
      out += fmt::format("{}# {}\n", out.empty() ? "" : "\n", group);
    }
    write_yaml(out, key, value, 0);
  }
  return out;
}

Json schema_of(const FieldList& list, const std::string& title) {
  Json schema{{"$schema", "https://json-schema.org/draft/2020-12/schema"},
              {"title", title},
              {"type", "object"},
              {"additionalProperties", false},
              {"properties", Json::object()}};
  for (const Field& field : list.fields()) {
    const std::vector<std::string> path = path_of(field);
    properties_at(schema, path)[path.back()] = schema_of_field(field);
  }
  return schema;
}

std::string flags_help(const FieldList& list) {
  std::string out;
  std::string group;
  for (const Field& field : list.fields()) {
    if (field.group != group) {
      group = field.group;
      out += fmt::format("{}{}:\n", out.empty() ? "" : "\n", group);
    }
    const std::string shown = shown_default(field);
    std::string text = field.help;
    if (field.is_required) {
      text += " (required)";
    } else if (!shown.empty()) {
      text += fmt::format(" (default: {})", shown);
    }
    const std::string left = fmt::format("  {}", spelling(field));
    const bool fits = left.size() + 2 <= kHelpColumn;
    out += left;
    out += fmt::format("{}{:{}}", fits ? "" : "\n", "", fits ? kHelpColumn - left.size() : kHelpColumn);
    out += fmt::format("{}\n", wrapped(text, kHelpColumn));
  }
  return out;
}

std::string keys_as_markdown(const FieldList& list) {
  std::string out;
  std::string group;
  for (const Field& field : list.fields()) {
    if (field.group != group) {
      group = field.group;
      out += fmt::format("\n## {}\n\n| key | takes | default | mlx-lm | meaning |\n|---|---|---|---|---|\n",
                         group);
    }
    const std::string takes =
        field.is_flag()
            ? "true\\|false"
            : cell(field.choices.empty() ? field.place() : fmt::format("{}", fmt::join(field.choices, "|")));
    const std::string shown = shown_default(field);
    const std::string other = field.mlx_lm_default ? fmt::format("`{}`", dump(*field.mlx_lm_default)) : "";
    const std::string range = field.range();
    out += fmt::format("| `{}` | {}{} | {} | {} | {} |\n", field.key, takes,
                       range.empty() ? range : fmt::format(", {}", range),
                       shown.empty() ? shown : fmt::format("`{}`", cell(shown)), cell(other), cell(field.help));
  }
  return out;
}

} // namespace temper
