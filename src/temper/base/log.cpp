#include "temper/base/log.h"

#include <atomic>
#include <cstdio>
#include <string>

namespace temper::log {
namespace {

std::atomic<Level> shown{Level::info};

void write(Level level, const char* prefix, std::string_view message) {
  if (level < shown.load(std::memory_order_relaxed)) {
    return;
  }
  // One write a line, so that lines of several threads never interleave.
  std::string line(prefix);
  line.append(message).push_back('\n');
  std::fwrite(line.data(), 1, line.size(), stderr);
}

} // namespace

void set_level(Level level) {
  shown.store(level, std::memory_order_relaxed);
}

void debug(std::string_view message) {
  write(Level::debug, "", message);
}

void info(std::string_view message) {
  write(Level::info, "", message);
}

void warn(std::string_view message) {
  write(Level::warn, "warning: ", message);
}

void error(std::string_view message) {
  write(Level::error, "error: ", message);
}

} // namespace temper::log
