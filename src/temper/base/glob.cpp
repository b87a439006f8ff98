#include "temper/base/glob.h"

#include <algorithm>

namespace temper {
namespace {

namespace fs = std::filesystem;

constexpr auto kNone = std::string_view::npos;

// Matches `c` against the set that begins at pattern[at] == '['; moves `at` behind it. A set that is not
// closed is a plain '['.
bool in_set(std::string_view pattern, std::size_t& at, char c) {
  const bool negated = at + 1 < pattern.size() && (pattern[at + 1] == '!' || pattern[at + 1] == '^');
  const std::size_t first = at + (negated ? 2 : 1);
  const auto end = pattern.find(']', first + 1);
  if (end == kNone) {
    ++at;
    return c == '[';
  }
  bool found = false;
  for (std::size_t i = first; i < end; ++i) {
    const bool is_range = i + 2 < end && pattern[i + 1] == '-';
    found = found || (is_range ? pattern[i] <= c && c <= pattern[i + 2] : c == pattern[i]);
    i += is_range ? 2 : 0;
  }
  at = end + 1;
  return c != '/' && found != negated;
}

// Whether a part of a path that begins at text[at] is hidden from the pattern's wildcard.
bool is_hidden(std::string_view text, std::size_t at) {
  return at < text.size() && text[at] == '.' && (at == 0 || text[at - 1] == '/');
}

// `steps` bounds what a pattern of many stars may try.
bool matches(std::string_view pattern, std::size_t p, std::string_view text, std::size_t t, int& steps) {
  while (p < pattern.size()) {
    if (--steps < 0) {
      return false;
    }
    if (pattern[p] == '*') {
      const bool crosses = pattern.substr(p, 2) == "**";
      auto next = p + (crosses ? 2 : 1);
      if (crosses && pattern.substr(next, 1) == "/" && matches(pattern, next + 1, text, t, steps)) {
        return true; // "**/" stands for no folder as well
      }
      for (;; ++t) {
        if (is_hidden(text, t)) {
          return false;
        }
        if (matches(pattern, next, text, t, steps)) {
          return true;
        }
        if (t >= text.size() || (text[t] == '/' && !crosses)) {
          return false;
        }
      }
    }
    if (t >= text.size()) {
      return false;
    }
    if (pattern[p] == '[') {
      if (!in_set(pattern, p, text[t])) {
        return false;
      }
    } else if (pattern[p] == '?' ? text[t] != '/' && !is_hidden(text, t) : pattern[p] == text[t]) {
      ++p;
    } else {
      return false;
    }
    ++t;
  }
  return t == text.size();
}

// `depth`: parts of the path below `folder`; 0: any number, and then no link leads into a folder.
void collect(const fs::path& folder, const std::string& pattern, std::size_t depth,
             std::vector<fs::path>& found) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder.empty() ? "." : folder, error)) {
    const auto path = folder / entry.path().filename();
    if (entry.is_directory(error)) {
      if (depth > 1 || (depth == 0 && !entry.is_symlink(error))) {
        collect(path, pattern, depth == 0 ? 0 : depth - 1, found);
      }
    } else if (entry.is_regular_file(error) && glob_match(pattern, path.string())) {
      found.push_back(path);
    }
  }
}

} // namespace

bool is_glob(std::string_view text) {
  return text.find_first_of("*?[") != kNone;
}

bool glob_match(std::string_view pattern, std::string_view path) {
  int steps = 1 << 20;
  return matches(pattern, 0, path, 0, steps);
}

std::string glob_root(std::string_view pattern) {
  const auto first = pattern.find_first_of("*?[");
  const auto slash = pattern.substr(0, first).rfind('/');
  return slash == kNone ? "" : std::string(pattern.substr(0, std::max<std::size_t>(slash, 1)));
}

std::vector<fs::path> glob_files(const std::string& pattern) {
  const fs::path root = glob_root(pattern);
  const auto rest = std::string_view(pattern).substr(root.string().size());
  const auto parts = static_cast<std::size_t>(std::ranges::count(rest, '/')) + (rest.starts_with('/') ? 0 : 1);
  std::vector<fs::path> found;
  collect(root, pattern, rest.find("**") == kNone ? parts : 0, found);
  std::ranges::sort(found);
  return found;
}

} // namespace temper
