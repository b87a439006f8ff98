#include <array>
#include <initializer_list>

#include "temper/base/error.h"
#include "temper/data/prepared_data.h"
#include "temper/data/row_source.h"
#include "temper/net/resolve.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

constexpr std::array<const char*, 5> kExtensions = {".jsonl", ".json", ".csv", ".tsv", ".txt"};

fs::path find_one(const fs::path& folder, std::initializer_list<const char*> names) {
  fs::path found;
  for (const char* name : names) {
    for (const char* extension : kExtensions) {
      const auto candidate = folder / (std::string(name) + extension);
      if (!fs::exists(candidate)) {
        continue;
      }
      if (!found.empty()) {
        throw DataError(folder.string() + ": both " + found.filename().string() + " and " +
                        candidate.filename().string() + " are there for one split; keep one");
      }
      found = candidate;
    }
  }
  return found;
}

} // namespace

SplitFiles find_splits(const fs::path& given) {
  const auto path = resolve_data(given);
  std::error_code ignored;
  if (path.empty()) {
    throw DataError("no data: name a folder or file with --data");
  }
  if (!fs::exists(path, ignored)) {
    throw DataError(path.string() + ": no such file or folder; --data takes a folder of train/valid/test " +
                    "files or one file");
  }
  if (!fs::is_directory(path)) {
    return {path, {}, {}};
  }
  SplitFiles files{find_one(path, {"train"}), find_one(path, {"valid", "validation", "val", "dev"}),
                   find_one(path, {"test"})};
  if (files.train.empty() && files.valid.empty() && files.test.empty()) {
    throw DataError(path.string() + ": the folder has no train, valid or test file (.jsonl, .json, .csv, " +
                    ".tsv or .txt)");
  }
  return files;
}

fs::path split_file(const fs::path& given, const std::string& split) {
  const auto path = resolve_data(given);
  const auto files = find_splits(path);
  if (!fs::is_directory(path)) {
    return path;
  }
  const std::string chosen = !split.empty() ? split : files.test.empty() ? "valid" : "test";
  const fs::path& file = chosen == "train" ? files.train : chosen == "valid" ? files.valid : files.test;
  if (file.empty()) {
    throw DataError(path.string() + ": the folder has no " + chosen + " file; name a file or another split");
  }
  return file;
}

} // namespace temper
