#include "temper/text/stop_strings.h"

#include <algorithm>
#include <utility>

#include "temper/base/error.h"

namespace temper {
namespace {

// Bytes at the end of `text` that begin `stop`, the whole of it excepted.
std::size_t partial_match(std::string_view text, std::string_view stop) {
  for (auto size = std::min(text.size(), stop.size() - 1); size > 0; --size) {
    if (text.ends_with(stop.substr(0, size))) {
      return size;
    }
  }
  return 0;
}

} // namespace

StopStrings::StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const auto& stop : stops_) {
    if (stop.empty()) {
      throw ConfigError("a stop string is empty; leave it out");
    }
  }
}

std::string StopStrings::add(std::string_view text) {
  if (stopped_) {
    return {};
  }
  held_ += text;
  std::size_t first = std::string::npos;
  std::size_t keep = 0;
  for (const auto& stop : stops_) {
    first = std::min(first, held_.find(stop));
    keep = std::max(keep, partial_match(held_, stop));
  }
  if (first != std::string::npos) {
    stopped_ = true;
    held_.resize(first);
    return std::exchange(held_, {});
  }
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, out.size());
  return out;
}

std::string StopStrings::finish() {
  return std::exchange(held_, {});
}

} // namespace temper
