// What the program says, for tests that look at it.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "temper/base/log.h"

namespace temper::test {

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// The message of the exception that `action` throws, "" if it throws none.
template <typename Exception>
std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Exception& error) {
    return error.what();
  }
  return "";
}

// The lines that are logged meanwhile, one after the other.
inline std::string warnings_of(const std::function<void()>& action) {
  std::string lines;
  log::set_writer([&](std::string_view line) { lines += line; });
  action();
  log::set_writer(nullptr);
  return lines;
}

// Nothing but errors, from the program's start on.
struct Quiet {
  Quiet() {
    log::set_level(log::Level::error);
  }
};

} // namespace temper::test
