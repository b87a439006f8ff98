#include "temper/data/messages.h"

#include <array>
#include <utility>

#include "temper/data/row_source.h"

namespace temper {
namespace {

constexpr std::array<std::pair<const char*, const char*>, 8> kRoles = {{
    {"human", "user"},
    {"gpt", "assistant"},
    {"chatgpt", "assistant"},
    {"bot", "assistant"},
    {"model", "assistant"},
    {"function_call", "assistant"},
    {"observation", "tool"},
    {"function_response", "tool"},
}};

std::string role_of(const std::string& name) {
  for (const auto& [alias, role] : kRoles) {
    if (name == alias) {
      return role;
    }
  }
  return name;
}

std::string join_parts(const Json& parts, const std::string& where) {
  std::string text;
  for (const auto& part : parts) {
    if (part.is_string()) {
      text += part.get<std::string>();
    } else if (part.is_object() && part.contains("text") && part["text"].is_string()) {
      text += part["text"].get<std::string>();
    } else {
      const bool typed = part.is_object() && part.contains("type") && part["type"].is_string();
      throw RowError(where + " has a part " +
                     (typed ? "of type '" + part["type"].get<std::string>() + "' " : "") +
                     "that is not text; only text can be trained on");
    }
  }
  return text;
}

// Arguments that don't hold a JSON object stay what they are.
void parse_arguments(Json& calls, const std::string& where) {
  if (!calls.is_array()) {
    throw RowError(where + ": tool_calls must be a list, not " + calls.type_name());
  }
  for (auto& call : calls) {
    if (!call.is_object()) {
      throw RowError(where + ": a tool call must be an object, not " + call.type_name());
    }
    Json& function = call.contains("function") && call["function"].is_object() ? call["function"] : call;
    const auto found = function.find("arguments");
    if (found != function.end() && found->is_string()) {
      Json parsed = Json::parse(found->get_ref<const std::string&>(), nullptr, false);
      if (parsed.is_object()) {
        *found = std::move(parsed);
      }
    }
  }
}

Json clean_message(const Json& message, const std::string& where) {
  if (!message.is_object()) {
    throw RowError(where + " must be an object, not " + message.type_name());
  }
  const bool sharegpt = !message.contains("role") && message.contains("from");
  const char* role_key = sharegpt ? "from" : "role";
  const char* content_key = sharegpt && message.contains("value") ? "value" : "content";
  if (!message.contains(role_key) || !message[role_key].is_string()) {
    throw RowError(where + " has no '" + role_key + "' string");
  }
  const bool calls = message.contains("tool_calls") && !message["tool_calls"].is_null();
  Json clean = {{"role", role_of(message[role_key].get<std::string>())}, {"content", ""}};
  const auto content = message.find(content_key);
  if (content != message.end() && content->is_string()) {
    clean["content"] = *content;
  } else if (content != message.end() && content->is_array()) {
    clean["content"] = join_parts(*content, where);
  } else if (!calls) {
    throw RowError(where + (content == message.end() ? std::string(" has no '") + content_key + "'"
                                                     : std::string(": '") + content_key +
                                                           "' must be a string or a list of text parts, not " +
                                                           content->type_name()));
  }
  for (const auto& [key, value] : message.items()) {
    if (key != role_key && key != content_key) {
      clean[key] = value;
    }
  }
  if (calls) {
    parse_arguments(clean["tool_calls"], where);
  }
  return clean;
}

} // namespace

Json clean_messages(const Json& messages, const std::string& key) {
  Json clean = Json::array();
  for (std::size_t i = 0; i < messages.size(); ++i) {
    clean.push_back(clean_message(messages[i], "message " + std::to_string(i + 1) + " of '" + key + "'"));
  }
  return clean;
}

} // namespace temper
