// Safetensors files, checked before anything is mapped. Format: docs/formats/safetensors.md;
// source: https://github.com/huggingface/safetensors#format.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "temper/nn/params.h"

namespace temper {

struct TensorInfo {
  std::string dtype; // as the file says: F32, BF16 ...
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0; // bytes, after the header
  std::uint64_t end = 0;
};

struct SafetensorsHeader {
  std::map<std::string, TensorInfo> tensors;
  std::map<std::string, std::string> metadata;
};

// Validates the header of a whole file's bytes: its length, JSON, dtypes, shapes, offsets (in the file,
// without gaps or overlaps), each name once. Throws ModelError naming `origin` and the tensor.
SafetensorsHeader parse_safetensors_header(std::string_view file, const std::string& origin);

// The same of a file; IoError if it can't be read.
SafetensorsHeader read_safetensors_header(const std::filesystem::path& path);

// All tensors, lazily read, after read_safetensors_header() found the file sound.
Params load_safetensors(const std::filesystem::path& path);

// Writes evaluated copies atomically. Throws IoError.
void save_safetensors(const std::filesystem::path& path, const Params& params,
                      const std::map<std::string, std::string>& metadata = {{"format", "mlx"}});

} // namespace temper
