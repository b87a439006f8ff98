// JSON with keys kept in the order they were written.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace temper {

using Json = nlohmann::ordered_json;

// Parses `text`. Throws ConfigError "`origin`: <what> at line L, column C" if it is not JSON.
Json parse_json(std::string_view text, const std::string& origin);

// Reads and parses a file. Throws IoError if it can't be read, ConfigError if it is not JSON.
Json read_json(const std::filesystem::path& path);

// Writes `value`, indented by two spaces and ending in a newline, atomically (see files.h).
void write_json(const std::filesystem::path& path, const Json& value);

// dump() that never throws: invalid UTF-8 is replaced by U+FFFD.
std::string dump(const Json& value, int indent = -1);

} // namespace temper
