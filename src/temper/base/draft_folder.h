// A folder that is complete or absent: written beside its place under a temporary name, then renamed.
#pragma once

#include <filesystem>

namespace temper {

class DraftFolder {
 public:
  // Throws ConfigError if `target` is a file or a folder that is not empty, IoError if nothing can be made
  // beside it.
  explicit DraftFolder(const std::filesystem::path& target);
  // Removes what was written, unless it was published.
  ~DraftFolder();
  DraftFolder(const DraftFolder&) = delete;
  DraftFolder& operator=(const DraftFolder&) = delete;

  // Where to write.
  const std::filesystem::path& path() const {
    return path_;
  }
  // Puts it in its place. Throws IoError.
  void publish();

 private:
  std::filesystem::path target_;
  std::filesystem::path path_;
};

} // namespace temper
