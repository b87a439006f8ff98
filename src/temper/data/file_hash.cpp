#include "temper/data/file_hash.h"

#include <chrono>
#include <optional>
#include <string>

#include <sys/stat.h>

#include "temper/base/clock.h"
#include "temper/base/error.h"
#include "temper/base/files.h"
#include "temper/base/json.h"
#include "temper/base/passed_pages.h"
#include "temper/data/content_hash.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kRememberedBytes = 64 << 20;
// A file changed this recently may change again without its time of modification showing it.
constexpr double kSettleSeconds = 2.0;

struct Stamp {
  std::int64_t size = 0;
  std::int64_t inode = 0;
  std::int64_t seconds = 0; // of modification
  std::int64_t nanoseconds = 0;
  bool operator==(const Stamp&) const = default;
};

std::optional<Stamp> stamp_of(const fs::path& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) {
    return std::nullopt;
  }
#ifdef __APPLE__
  const auto& modified = info.st_mtimespec;
#else
  const auto& modified = info.st_mtim;
#endif
  return Stamp{static_cast<std::int64_t>(info.st_size), static_cast<std::int64_t>(info.st_ino),
               static_cast<std::int64_t>(modified.tv_sec), static_cast<std::int64_t>(modified.tv_nsec)};
}

Json to_json(const Stamp& stamp) {
  return {stamp.size, stamp.inode, stamp.seconds, stamp.nanoseconds};
}

std::optional<std::uint64_t> recall(const fs::path& memory, const fs::path& path, const Stamp& stamp) {
  try {
    const Json json = read_json(memory);
    if (json.at("path") == path.string() && json.at("stamp") == to_json(stamp)) {
      return json.at("hash").get<std::uint64_t>();
    }
  } catch (const std::exception&) {
    // Nothing remembered, or nothing readable: compute it.
  }
  return std::nullopt;
}

} // namespace

std::uint64_t hash_map(std::string_view map) {
  constexpr std::size_t kPiece = 1 << 20;
  ContentHash hash;
  PassedPages passed(map);
  for (std::size_t at = 0; at < map.size(); at += kPiece) {
    const auto piece = map.substr(at, kPiece);
    hash.add(piece.data(), piece.size());
    passed.reached(at + piece.size());
  }
  return hash.value();
}

std::uint64_t hash_file(const fs::path& path, const fs::path& memory_dir) {
  std::error_code ignored;
  const auto whole = fs::weakly_canonical(path, ignored);
  const auto memory = memory_dir / ("file-" + ContentHash().add_text(whole.string()).hex() + ".json");
  const auto stamp = stamp_of(path);
  const bool remember = stamp && stamp->size >= kRememberedBytes && !memory_dir.empty();
  if (remember) {
    if (const auto known = recall(memory, whole, *stamp)) {
      return *known;
    }
  }
  const auto hash = hash_map(MappedFile(path).text());
  const bool settled = remember && wall_time() - static_cast<double>(stamp->seconds) > kSettleSeconds;
  if (settled && stamp == stamp_of(path)) {
    try {
      make_directories(memory_dir);
      write_json(memory, {{"path", whole.string()}, {"stamp", to_json(*stamp)}, {"hash", hash}});
    } catch (const IoError&) {
      // The next start computes it again.
    }
  }
  return hash;
}

} // namespace temper
