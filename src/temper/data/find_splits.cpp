#include "temper/data/find_splits.h"

#include <algorithm>
#include <map>
#include <regex>
#include <set>

#include <fmt/format.h>

#include "temper/base/error.h"
#include "temper/base/glob.h"
#include "temper/data/row_source.h"
#include "temper/net/resolve.h"

namespace temper {
namespace {

namespace fs = std::filesystem;
using Files = std::vector<fs::path>;

constexpr const char* kKinds = "(.jsonl, .json, .csv, .tsv, .txt or .parquet)";

// What a file's name says of its place: "train-00000-of-00003.parquet" is part 0 of 3 of "train".
struct SplitName {
  std::string split;
  int part = -1;
  int num_parts = -1;
};

// Also as the hub once wrote them, with a sum behind: "train-00000-of-00001-0123456789abcdef.parquet".
SplitName read_name(const fs::path& file) {
  static const std::regex form("(.+?)(?:[-_.]([0-9]{1,6})(?:-of-([0-9]{1,6}))?)?(?:-[0-9a-f]{16})?");
  const auto stem = file.stem().string();
  std::smatch match;
  if (!std::regex_match(stem, match, form)) {
    return {stem};
  }
  const auto number = [&](int group) { return match[group].matched ? std::stoi(match[group]) : -1; };
  return {match[1], number(2), number(3)};
}

// train, valid or test; empty if the name is none of theirs.
std::string standard_split(const std::string& name) {
  static const std::map<std::string, std::string> names = {{"train", "train"},      {"valid", "valid"},
                                                           {"validation", "valid"}, {"val", "valid"},
                                                           {"dev", "valid"},        {"test", "test"}};
  const auto found = names.find(name);
  return found == names.end() ? "" : found->second;
}

// Throws DataError unless `files` are one file, or all parts of one.
void check_parts(const fs::path& place, const Files& files) {
  const auto first = read_name(files.front());
  std::set<int> parts = {first.part};
  for (std::size_t i = 1; i < files.size(); ++i) {
    const auto name = read_name(files[i]);
    const bool fits = first.part >= 0 && name.split == first.split && name.num_parts == first.num_parts &&
                      files[i].extension() == files.front().extension() && parts.insert(name.part).second;
    if (!fits) {
      throw DataError(fmt::format("{}: both {} and {} are there for one split; keep one, or name the files",
                                  place.string(), files.front().filename().string(),
                                  files[i].filename().string()));
    }
  }
  for (int part = 0; part < first.num_parts; ++part) {
    if (!parts.contains(part)) {
      throw DataError(fmt::format("{}: part {} (from 0) of the {} of {} is missing", place.string(), part,
                                  first.num_parts, first.split));
    }
  }
}

Files data_files_in(const fs::path& folder) {
  Files files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (is_data_file(entry.path())) {
      files.push_back(entry.path());
    }
  }
  if (error) {
    throw IoError("cannot read " + folder.string() + ": " + error.message());
  }
  std::ranges::sort(files);
  return files;
}

// The files of `folder` (or else of its data/) whose split's name `accepts`.
template <class Accepts>
Files named_files(const fs::path& folder, const Accepts& accepts) {
  std::error_code ignored;
  for (const auto& place : {folder, folder / "data"}) {
    Files files = fs::is_directory(place, ignored) ? data_files_in(place) : Files();
    std::erase_if(files, [&](const auto& file) { return !accepts(read_name(file).split); });
    if (!files.empty()) {
      return files;
    }
  }
  return {};
}

Files& split_of(SplitFiles& splits, const std::string& split) {
  return split == "valid" ? splits.valid : split == "test" ? splits.test : splits.train;
}

// Folders directly below that have splits of their own, to be named in a message.
std::string subsets_of(const fs::path& folder) {
  std::set<std::string> names;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    if (entry.is_directory(ignored) &&
        !named_files(entry.path(), [](const auto& name) { return !standard_split(name).empty(); }).empty()) {
      names.insert(entry.path().filename().string());
    }
  }
  return names.empty() ? ""
                       : fmt::format("; it has folders with such files, name one: {}", fmt::join(names, ", "));
}

SplitFiles splits_of_folder(const fs::path& folder) {
  SplitFiles splits;
  for (const auto& file : named_files(folder, [](const auto& name) { return !standard_split(name).empty(); })) {
    split_of(splits, standard_split(read_name(file).split)).push_back(file);
  }
  for (const auto* files : {&splits.train, &splits.valid, &splits.test}) {
    if (!files->empty()) {
      check_parts(folder, *files);
    }
  }
  if (splits.train.empty() && splits.valid.empty() && splits.test.empty()) {
    throw DataError(folder.string() + ": the folder has no train, valid or test file " + kKinds +
                    subsets_of(folder));
  }
  return splits;
}

Files files_of_pattern(const fs::path& pattern) {
  auto files = glob_files(pattern.string());
  std::erase_if(files, [](const auto& file) { return !is_data_file(file); });
  if (files.empty()) {
    throw DataError(pattern.string() + ": no data file " + kKinds + " fits the pattern");
  }
  return files;
}

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// The parts of a list; a file whose own name has a comma is one.
std::vector<std::string> elements_of(const std::string& data) {
  std::vector<std::string> elements;
  for (std::size_t at = 0; at <= data.size();) {
    const auto end = is_there(data) ? data.size() : std::min(data.find(',', at), data.size());
    const auto first = std::min(data.find_first_not_of(' ', at), end);
    auto element = data.substr(first, end - first);
    element.erase(element.find_last_not_of(' ') + 1);
    if (!element.empty()) {
      elements.push_back(std::move(element));
    }
    at = end + 1;
  }
  if (elements.empty()) {
    throw DataError("no data: name a folder or file with --data");
  }
  return elements;
}

void add_element(SplitFiles& splits, const std::string& element, bool is_list) {
  const auto path = resolve_data(element);
  if (!is_there(path) && !is_glob(path.string())) {
    throw DataError(path.string() + ": no such file or folder; --data takes a folder of train/valid/test " +
                    "files or one file");
  }
  if (fs::is_directory(path)) {
    const auto found = splits_of_folder(path);
    for (const char* split : {"train", "valid", "test"}) {
      const auto& files = found.of(split);
      split_of(splits, split).insert(split_of(splits, split).end(), files.begin(), files.end());
    }
    return;
  }
  const bool one_file = is_there(path);
  for (const auto& file : one_file ? Files{path} : files_of_pattern(path)) {
    const bool by_name = is_list || !one_file;
    split_of(splits, by_name ? standard_split(read_name(file).split) : "train").push_back(file);
  }
}

} // namespace

const Files& SplitFiles::of(const std::string& split) const {
  return split == "valid" ? valid : split == "test" ? test : train;
}

SplitFiles find_splits(const fs::path& data) {
  const auto elements = elements_of(data.string());
  SplitFiles splits;
  for (const auto& element : elements) {
    add_element(splits, element, elements.size() > 1);
  }
  return splits;
}

Files find_split(const fs::path& data, const std::string& split) {
  const auto elements = elements_of(data.string());
  const auto place = resolve_data(elements.front());
  const auto standard = standard_split(split);
  if (elements.size() > 1 || !fs::is_directory(place)) {
    return standard.empty() ? Files() : find_splits(data).of(standard);
  }
  auto files = named_files(place, [&](const auto& name) {
    return name == split || (!standard.empty() && standard_split(name) == standard);
  });
  if (!files.empty()) {
    check_parts(place, files);
  }
  return files;
}

Files split_files(const fs::path& data, const std::string& split) {
  const auto splits = find_splits(data);
  const auto elements = elements_of(data.string());
  if (elements.size() == 1 && fs::is_regular_file(resolve_data(elements.front()))) {
    return splits.train;
  }
  const std::string chosen = !split.empty() ? split : splits.test.empty() ? "valid" : "test";
  if (splits.of(chosen).empty()) {
    throw DataError(data.string() + ": the folder has no " + chosen + " file; name a file or another split");
  }
  return splits.of(chosen);
}

std::string describe_files(const Files& files) {
  return files.empty()
             ? ""
             : files.front().string() + (files.size() > 1 ? fmt::format(" and {} more", files.size() - 1) : "");
}

} // namespace temper
