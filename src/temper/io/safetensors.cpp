#include "temper/io/safetensors.h"

#include <unordered_map>

#include "temper/base/error.h"
#include "temper/base/files.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

} // namespace

SafetensorsHeader read_safetensors_header(const fs::path& path) {
  return parse_safetensors_header(MappedFile(path).text(), path.string());
}

Params load_safetensors(const fs::path& path) {
  read_safetensors_header(path);
  Params params;
  for (auto& [name, array] : mx::load_safetensors(path.string()).first) {
    params.emplace(name, array);
  }
  return params;
}

void save_safetensors(const fs::path& path, const Params& params,
                      const std::map<std::string, std::string>& metadata) {
  std::unordered_map<std::string, mx::array> arrays;
  for (const auto& [name, array] : params) {
    arrays.emplace(name, mx::contiguous(array));
  }
  const std::unordered_map<std::string, std::string> notes(metadata.begin(), metadata.end());
  write_file_atomic(path, [&](const fs::path& temporary) {
    try {
      mx::save_safetensors(temporary.string(), arrays, notes);
    } catch (const std::exception& error) {
      throw IoError("cannot write " + path.string() + ": the disk may be full (" + error.what() + ")");
    }
    // MLX does not look whether its writes succeeded: a full disk shows as a short file.
    try {
      read_safetensors_header(temporary);
    } catch (const ModelError&) {
      throw IoError("cannot write " + path.string() + ": the disk is full or the write was cut short");
    }
  });
}

} // namespace temper
