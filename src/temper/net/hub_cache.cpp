#include "temper/net/hub_cache.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "temper/base/error.h"
#include "temper/base/files.h"
#include "temper/base/log.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kLongestName = 96; // the hub's own limit
constexpr std::string_view kScheme = "hf://";

bool is_name(std::string_view text) {
  const auto is_allowed = [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.';
  };
  return !text.empty() && text.size() <= kLongestName && text.front() != '.' && text.front() != '-' &&
         text.back() != '.' && text.find("..") == std::string_view::npos &&
         text.find("--") == std::string_view::npos && std::ranges::all_of(text, is_allowed);
}

std::vector<std::string> split(std::string_view text) {
  std::vector<std::string> parts;
  while (true) {
    const auto slash = text.find('/');
    parts.emplace_back(text.substr(0, slash));
    if (slash == std::string_view::npos) {
      return parts;
    }
    text.remove_prefix(slash + 1);
  }
}

// Takes "name" or "name@revision"; false if it is neither.
bool take_name(const std::string& text, std::string& name, std::string& revision) {
  const auto at = text.find('@');
  name = text.substr(0, at);
  if (at != std::string::npos) {
    revision = text.substr(at + 1);
    if (!is_inside(revision)) {
      return false;
    }
  }
  return is_name(name);
}

std::optional<HubRepo> parse_parts(std::vector<std::string> parts, HubRepo repo, bool has_scheme) {
  std::string name;
  if (has_scheme && parts.size() == 1 && take_name(parts[0], name, repo.revision)) {
    repo.id = name;
    return repo;
  }
  if (parts.size() < 2 || !is_name(parts[0]) || (!has_scheme && parts.size() > 2) ||
      !take_name(parts[1], name, repo.revision)) {
    return std::nullopt;
  }
  repo.id = parts[0] + "/" + name;
  for (std::size_t i = 2; i < parts.size(); ++i) {
    if (!parts[i].empty()) {
      repo.path += (repo.path.empty() ? "" : "/") + parts[i];
    }
  }
  if (!repo.path.empty() && !is_inside(repo.path)) {
    return std::nullopt;
  }
  return repo;
}

} // namespace

std::string HubRepo::api_path() const {
  return (kind == Kind::dataset ? "datasets/" : "models/") + id;
}

std::string HubRepo::web_path() const {
  return (kind == Kind::dataset ? "datasets/" : "") + id;
}

std::optional<HubRepo> parse_hub_name(std::string_view text) {
  const bool has_scheme = text.starts_with(kScheme);
  auto parts = split(has_scheme ? text.substr(kScheme.size()) : text);
  HubRepo repo;
  if (has_scheme && parts.size() > 1 && (parts[0] == "datasets" || parts[0] == "models")) {
    repo.kind = parts[0] == "datasets" ? HubRepo::Kind::dataset : HubRepo::Kind::model;
    parts.erase(parts.begin());
  }
  auto found = parse_parts(std::move(parts), repo, has_scheme);
  if (has_scheme && !found) {
    throw ConfigError("'" + std::string(text) +
                      "' names nothing on the hub: write hf://org/name or hf://datasets/org/name, with " +
                      "@revision behind the name if it is not the main one");
  }
  return found;
}

bool is_inside(std::string_view path) {
  return !path.empty() && path.front() != '/' && path.find('\\') == std::string_view::npos &&
         std::ranges::none_of(path, [](unsigned char c) { return c < ' '; }) &&
         std::ranges::none_of(fs::path(path), [](const fs::path& part) { return part == ".." || part == "."; });
}

bool is_commit(std::string_view text) {
  return text.size() == 40 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

HubCache::HubCache(const fs::path& root, const HubRepo& repo)
    : root_(root), name_(repo.kind == HubRepo::Kind::dataset ? "datasets" : "models") {
  for (const auto& part : split(repo.id)) {
    name_ += "--" + part;
  }
}

fs::path HubCache::blob(const std::string& etag) const {
  return root_ / name_ / "blobs" / etag;
}

fs::path HubCache::snapshot(const std::string& commit) const {
  return root_ / name_ / "snapshots" / commit;
}

fs::path HubCache::lock_file(const std::string& etag) const {
  return root_ / ".locks" / name_ / (etag + ".lock");
}

std::string HubCache::commit_of(const std::string& revision) const {
  if (is_commit(revision)) {
    return revision;
  }
  const auto file = root_ / name_ / "refs" / revision;
  std::error_code ignored;
  if (!fs::is_regular_file(file, ignored)) {
    return {};
  }
  auto commit = read_file(file);
  commit.erase(commit.find_last_not_of(" \r\n") + 1);
  return is_commit(commit) ? commit : std::string();
}

void HubCache::keep_commit(const std::string& revision, const std::string& commit) const {
  if (revision != commit && commit_of(revision) != commit) {
    const auto file = root_ / name_ / "refs" / revision;
    make_directories(file.parent_path());
    write_file_atomic(file, commit);
  }
}

void HubCache::link(const std::string& commit, const std::string& file, const std::string& etag) const {
  const auto folder = snapshot(commit);
  const auto pointer = folder / file;
  if (!is_inside(file)) {
    throw IoError(name_ + ": not a file inside the snapshot: " + file);
  }
  make_directories(pointer.parent_path());
  const auto target = fs::relative(blob(etag), pointer.parent_path());
  auto temporary = pointer;
  temporary += "." + std::to_string(::getpid()) + ".tmp";
  ::unlink(temporary.c_str());
  if (::symlink(target.c_str(), temporary.c_str()) != 0 || ::rename(temporary.c_str(), pointer.c_str()) != 0) {
    const int error = errno;
    ::unlink(temporary.c_str());
    throw IoError("cannot link " + pointer.string() + ": " + std::strerror(error) +
                  "; the cache needs a file system with links: set HF_HUB_CACHE to a folder on one");
  }
}

FileLock::FileLock(const fs::path& path, const std::string& what) {
  make_directories(path.parent_path());
  while (true) {
    fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0664);
    if (fd_ < 0) {
      throw IoError("cannot write " + path.string() + ": " + std::strerror(errno));
    }
    if (::flock(fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      log::info("Waiting for another process that fetches " + what);
      while (::flock(fd_, LOCK_EX) != 0 && errno == EINTR) {
      }
    }
    // Whoever held it may have deleted the file: then this lock is on nothing.
    struct stat held {};
    struct stat named {};
    if (::fstat(fd_, &held) == 0 && ::stat(path.c_str(), &named) == 0 && held.st_ino == named.st_ino) {
      return;
    }
    ::close(fd_);
  }
}

FileLock::~FileLock() {
  ::close(fd_);
}

} // namespace temper
