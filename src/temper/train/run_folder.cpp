#include "temper/train/run_folder.h"

#include <cerrno>
#include <cstring>
#include <sstream>
#include <vector>

#include <sys/stat.h>
#include <unistd.h>

#include "temper/base/error.h"
#include "temper/base/files.h"
#include "temper/base/json.h"

namespace temper {

namespace fs = std::filesystem;

RunFolder::RunFolder(fs::path path) : path_(std::move(path)) {
}

void RunFolder::create() {
  for (fs::path part = fs::absolute(path_).lexically_normal(); !part.empty() && !fs::exists(part);
       part = part.parent_path()) {
    created_ = part;
  }
  make_directories(path_);
  if (::access(path_.c_str(), W_OK | X_OK) != 0) {
    throw IoError("cannot write to the run folder " + path_.string() + ": " + std::strerror(errno));
  }
}

// Files that a killed process was writing under their temporary names (write_file_atomic).
void RunFolder::remove_leftovers() {
  std::vector<fs::path> found;
  for (const auto& entry : fs::recursive_directory_iterator(path_)) {
    const auto name = entry.path().filename().string();
    if (name.starts_with('.') && name.find(".tmp") != std::string::npos && entry.is_regular_file()) {
      found.push_back(entry.path());
    }
  }
  for (const auto& file : found) {
    std::error_code ignored; // one that stays does no harm
    fs::remove(file, ignored);
  }
}

void RunFolder::discard_if_empty() noexcept {
  std::error_code ignored;
  if (created_.empty()) {
    return;
  }
  events_.reset();
  if (fs::file_size(path_ / "events.jsonl", ignored) == 0) { // a full disk has room for names alone
    fs::remove(path_ / "events.jsonl", ignored);
  }
  // remove() refuses folders that hold something, which ends the walk.
  for (fs::path part = fs::absolute(path_).lexically_normal(); fs::remove(part, ignored);
       part = part.parent_path()) {
    if (part == created_) {
      break;
    }
  }
}

void RunFolder::rewind_events(std::int64_t step) {
  const auto file = path_ / "events.jsonl";
  if (!fs::exists(file)) {
    return;
  }
  std::istringstream lines(read_file(file));
  std::string kept;
  for (std::string line; std::getline(lines, line);) {
    const auto json = Json::parse(line, nullptr, false);
    // A kill can cut the last line short.
    if (json.is_object() && json.value("step", std::int64_t{0}) <= step) {
      kept += line + "\n";
    }
  }
  write_file_atomic(file, kept);
}

void RunFolder::on_event(const Event& event) {
  const auto file = path_ / "events.jsonl";
  if (!events_) {
    events_.reset(std::fopen(file.c_str(), "ae"));
    if (events_) {
      std::setvbuf(events_.get(), nullptr, _IONBF, 0);
    }
  }
  const auto line = dump(event.to_json()) + "\n";
  struct stat before {};
  if (!events_ || ::fstat(::fileno(events_.get()), &before) != 0 ||
      std::fwrite(line.data(), 1, line.size(), events_.get()) != line.size()) {
    const std::string reason = std::strerror(errno);
    if (events_) {
      std::error_code ignored; // half a line may stay, which readers know
      fs::resize_file(file, static_cast<std::uintmax_t>(before.st_size), ignored);
    }
    throw IoError("cannot write " + file.string() + ": " + reason);
  }
}

} // namespace temper
