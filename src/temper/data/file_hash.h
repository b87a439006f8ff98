// A hash of a file's content that a second start need not compute again.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

namespace temper {

// Of `path`'s bytes. For files of 64 MB and more it is remembered under `memory_dir` (empty: not at all) and
// believed while path, size, inode and time of modification stay the same. Throws IoError.
std::uint64_t hash_file(const std::filesystem::path& path, const std::filesystem::path& memory_dir);

// ContentHash of a mapped file, or of a part, whose memory is given back on the way.
std::uint64_t hash_map(std::string_view map);

} // namespace temper
