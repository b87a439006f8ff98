// Messages for people, on standard error; standard output belongs to results.
#pragma once

#include <functional>
#include <string_view>

namespace temper::log {

enum class Level { debug, info, warn, error };

// Shows messages of `level` and above; info at start.
void set_level(Level level);
// Whether messages of `level` are shown: for who draws progress by other means.
bool is_shown(Level level);

// From now on whole lines (without their newline) go to `writer`, one at a time; null: to standard error again.
// For whoever redraws the terminal and must know what else appears on it. `writer` must not log.
void set_writer(std::function<void(std::string_view line)> writer);

// "warning: " and "error: " prefix their lines; debug and info stand alone.
void debug(std::string_view message);
void info(std::string_view message);
void warn(std::string_view message);
// A warning that the process gives once, however often it is met.
void warn_once(std::string_view message);
void error(std::string_view message);

} // namespace temper::log
