#include "temper/infer/fingerprint.h"

#include <algorithm>
#include <vector>

#include "temper/base/files.h"
#include "temper/data/content_hash.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kWhole = 1U << 20; // bytes at each end, header included
constexpr std::size_t kSamples = 256;    // pages between them
constexpr std::size_t kPage = 4096;

void add_file(ContentHash& hash, const fs::path& path) {
  const MappedFile file(path);
  const auto bytes = file.text();
  hash.add_text(path.filename().string()).add_value(bytes.size());
  const auto add = [&](std::size_t begin, std::size_t count) {
    const auto part = bytes.substr(begin, count);
    hash.add(part.data(), part.size());
  };
  if (bytes.size() <= 2 * kWhole) {
    add(0, bytes.size());
    return;
  }
  add(0, kWhole);
  const auto between = bytes.size() - 2 * kWhole;
  for (std::size_t i = 0; i < kSamples; ++i) {
    add(kWhole + between / kSamples * i, std::min(kPage, between / kSamples));
  }
  add(bytes.size() - kWhole, kWhole);
}

bool counts(const fs::path& path) {
  const auto extension = path.extension().string();
  const auto name = path.filename().string();
  return extension == ".safetensors" || extension == ".gguf" || name == "config.json" ||
         name == "adapter_config.json" || name.starts_with("tokenizer");
}

} // namespace

std::string weights_fingerprint(const fs::path& path) {
  if (path.empty()) {
    return "";
  }
  std::vector<fs::path> files;
  if (fs::is_directory(path)) {
    for (const auto& entry : fs::directory_iterator(path)) {
      if (entry.is_regular_file() && counts(entry.path())) {
        files.push_back(entry.path());
      }
    }
  } else {
    files.push_back(path);
    if (const auto config = path.parent_path() / "adapter_config.json"; fs::exists(config)) {
      files.push_back(config);
    }
  }
  std::sort(files.begin(), files.end());
  ContentHash hash;
  for (const auto& file : files) {
    add_file(hash, file);
  }
  return hash.hex();
}

} // namespace temper
