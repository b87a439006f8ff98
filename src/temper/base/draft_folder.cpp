#include "temper/base/draft_folder.h"

#include <unistd.h>

#include <string>
#include <system_error>

#include "temper/base/error.h"
#include "temper/base/files.h"

namespace temper {

namespace fs = std::filesystem;

// Of the target's name a slash at its end is no part.
DraftFolder::DraftFolder(const fs::path& target)
    : target_(target.has_filename() ? target : target.parent_path()),
      path_(target_.string() + ".tmp" + std::to_string(::getpid())) {
  if (fs::exists(target_) && !(fs::is_directory(target_) && fs::is_empty(target_))) {
    throw ConfigError(target_.string() +
                      ": is there already; name another --out, or delete it, since nothing is overwritten");
  }
  make_directories(path_);
}

DraftFolder::~DraftFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

void DraftFolder::publish() {
  std::error_code error;
  fs::rename(path_, target_, error);
  if (error) {
    throw IoError("cannot rename " + path_.string() + " to " + target_.string() + ": " + error.message());
  }
}

} // namespace temper
