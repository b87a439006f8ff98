#include "temper/net/hub_gguf.h"

#include <algorithm>
#include <filesystem>
#include <regex>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "temper/base/error.h"
#include "temper/base/text.h"

namespace temper {
namespace {

constexpr std::size_t kMostNamed = 20;

std::string file_of(const std::string& name) {
  return lower(std::filesystem::path(name).filename().string());
}

bool is_model(const std::string& name) {
  return lower(name).ends_with(".gguf") && !file_of(name).starts_with("mmproj");
}

// "-00001-of-00003", by which llama.cpp names the files of a model in parts; 1: it is whole.
int number_of_parts(const std::string& name) {
  static const std::regex kParts(R"(-\d{5}-of-(\d{5})\.gguf$)");
  std::smatch found;
  const auto file = file_of(name);
  return std::regex_search(file, found, kParts) ? std::stoi(found[1]) : 1;
}

std::string without_part(const std::string& file) {
  static const std::regex kEnd(R"((-\d{5}-of-\d{5})?\.gguf$)");
  return std::regex_replace(file, kEnd, "");
}

// `wanted` is lowered.
bool is_meant(const std::string& name, const std::string& wanted) {
  if (wanted.empty() || lower(name) == wanted || file_of(name) == wanted) {
    return true;
  }
  const auto stem = without_part(file_of(name));
  if (!stem.ends_with(wanted)) {
    return false;
  }
  const auto before = stem.size() - wanted.size();
  return before == 0 || std::string_view("-._").find(stem[before - 1]) != std::string_view::npos;
}

std::string listed(const std::vector<std::string>& names) {
  const auto count = std::min(names.size(), kMostNamed);
  auto text =
      fmt::format("{}", fmt::join(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(count), ", "));
  return text + (names.size() > count ? fmt::format(" and {} more", names.size() - count) : "");
}

} // namespace

GgufName split_gguf_name(std::string_view text) {
  const auto colon = text.find(':', text.starts_with("hf://") ? 5 : 0);
  if (colon == std::string_view::npos) {
    return {std::string(text), ""};
  }
  const auto revision = std::min(text.find('@', colon), text.size());
  return {std::string(text.substr(0, colon)) + std::string(text.substr(revision)),
          std::string(text.substr(colon + 1, revision - colon - 1))};
}

std::vector<std::string> find_gguf(const std::vector<std::string>& names, const std::string& wanted) {
  std::vector<std::string> found;
  std::ranges::copy_if(names, std::back_inserter(found), [small = lower(wanted)](const std::string& name) {
    return is_model(name) && is_meant(name, small);
  });
  std::ranges::sort(found);
  return found;
}

std::string choose_gguf(const std::vector<std::string>& names, const std::string& wanted,
                        const std::string& repository) {
  const auto found = find_gguf(names, wanted);
  if (found.empty()) {
    const auto all = find_gguf(names, "");
    throw ModelError(repository +
                     (all.empty() ? ": there is no GGUF file"
                                  : ": no GGUF file is called '" + wanted + "'; there are " + listed(all)));
  }
  if (const int parts = number_of_parts(found.front()); parts > 1) {
    throw ModelError(
        fmt::format("{}: {} is one of {} parts, which Temper does not read; take another file, or put "
                    "them together with llama-gguf-split --merge",
                    repository, found.front(), parts));
  }
  if (found.size() > 1) {
    throw ModelError(repository + ": there are several GGUF files: " + listed(found) + "; name one as " +
                     repository + ":" + found.front());
  }
  return found.front();
}

} // namespace temper
