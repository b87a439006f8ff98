#include "temper/base/log.h"

#include <atomic>
#include <cstdio>
#include <functional>
#include <mutex>
#include <set>
#include <string>
#include <utility>

namespace temper::log {
namespace {

std::atomic<Level> shown{Level::info};
std::mutex writing;
std::function<void(std::string_view)> replaced;

void write(Level level, const char* prefix, std::string_view message) {
  if (level < shown.load(std::memory_order_relaxed)) {
    return;
  }
  std::string line(prefix);
  line.append(message);
  const std::lock_guard lock(writing);
  if (replaced) {
    replaced(line);
    return;
  }
  // One write a line, so that lines of several processes never interleave.
  line.push_back('\n');
  std::fwrite(line.data(), 1, line.size(), stderr);
}

} // namespace

void set_level(Level level) {
  shown.store(level, std::memory_order_relaxed);
}

bool is_shown(Level level) {
  return level >= shown.load(std::memory_order_relaxed);
}

void set_writer(std::function<void(std::string_view)> writer) {
  const std::lock_guard lock(writing);
  replaced = std::move(writer);
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

void warn_once(std::string_view message) {
  static std::mutex adding;
  static std::set<std::string, std::less<>> given;
  const std::lock_guard lock(adding);
  if (given.emplace(message).second) {
    warn(message);
  }
}

void error(std::string_view message) {
  write(Level::error, "error: ", message);
}

} // namespace temper::log
