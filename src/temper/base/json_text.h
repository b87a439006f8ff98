// Reading texts out of JSON that others wrote.
#pragma once

#include <string>

namespace temper {

// The text under `key`; empty if `value` is no object, or has no text there. For any of nlohmann's JSON types.
template <typename AnyJson>
std::string text_at(const AnyJson& value, const char* key) {
  const auto found = value.is_object() ? value.find(key) : value.end();
  return found != value.end() && found->is_string() ? found->template get<std::string>() : std::string();
}

} // namespace temper
