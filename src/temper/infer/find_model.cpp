#include "temper/infer/find_model.h"

#include <system_error>
#include <vector>

#include "temper/base/error.h"
#include "temper/io/gguf_import.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

// The only GGUF file of a folder that is no model folder; empty: there is none.
fs::path gguf_in(const fs::path& folder) {
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored) || fs::exists(folder / "config.json", ignored)) {
    return {};
  }
  fs::path found;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    if (entry.path().extension() == ".gguf") {
      if (!found.empty()) {
        throw ModelError(folder.string() + ": holds several GGUF files; name one of them");
      }
      found = entry.path();
    }
  }
  return found;
}

} // namespace

fs::path find_model(const std::string& name, const std::string& revision, ModelFiles files) {
  const auto path = resolve_model(name, revision, files);
  if (is_gguf(path)) {
    return gguf_folder(path);
  }
  const auto inside = gguf_in(path);
  return inside.empty() ? path : gguf_folder(inside);
}

} // namespace temper
