#include "temper/base/private_folder.h"

#include <cerrno>
#include <cstdlib>
#include <string>
#include <system_error>
#include <utility>

#include <unistd.h> // mkdtemp on macOS

#include "temper/base/error.h"

namespace temper {

namespace fs = std::filesystem;

PrivateFolder::PrivateFolder() {
  std::error_code error;
  auto name = (fs::temp_directory_path(error) / "temper-XXXXXX").string();
  if (error || ::mkdtemp(name.data()) == nullptr) {
    const auto reason = error ? error : std::error_code(errno, std::generic_category());
    throw IoError("no folder for temporary files can be made: " + reason.message() +
                  "; set TMPDIR to one that can be written");
  }
  path_ = name;
}

PrivateFolder::~PrivateFolder() {
  if (!path_.empty()) {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
}

PrivateFolder::PrivateFolder(PrivateFolder&& other) noexcept : path_(std::exchange(other.path_, {})) {
}

} // namespace temper
