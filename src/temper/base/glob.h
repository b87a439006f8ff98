// File names by pattern: * and ? within a part of a path, [abc] [a-z] [!a], ** over any number of parts.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace temper {

// Whether the text has a character that only means something in a pattern.
bool is_glob(std::string_view text);

// Whether the whole of `path` fits.
bool glob_match(std::string_view pattern, std::string_view path);

// What comes before the first part with such a character: "a/b" of "a/b/*.txt", "" of "*.txt".
std::string glob_root(std::string_view pattern);

// The files (links followed, folders not listed; ** enters no link) that fit, sorted. Hidden ones only if the
// pattern's own part begins with a dot.
std::vector<std::filesystem::path> glob_files(const std::string& pattern);

} // namespace temper
