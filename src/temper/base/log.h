// Messages for people, on standard error; standard output belongs to results.
#pragma once

#include <string_view>

namespace temper::log {

enum class Level { debug, info, warn, error };

// Shows messages of `level` and above; info at start.
void set_level(Level level);

// "warning: " and "error: " prefix their lines; debug and info stand alone.
void debug(std::string_view message);
void info(std::string_view message);
void warn(std::string_view message);
void error(std::string_view message);

} // namespace temper::log
