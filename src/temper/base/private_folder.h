// A new folder that only this user can enter, gone with the object.
#pragma once

#include <filesystem>

namespace temper {

class PrivateFolder {
 public:
  // In the system's folder for temporary files (TMPDIR). Throws IoError.
  PrivateFolder();
  ~PrivateFolder();
  PrivateFolder(PrivateFolder&& other) noexcept;
  PrivateFolder& operator=(PrivateFolder&&) = delete;

  const std::filesystem::path& path() const {
    return path_;
  }

 private:
  std::filesystem::path path_; // empty: moved from
};

} // namespace temper
