#include "temper/config/nearest.h"

#include <algorithm>
#include <numeric>

namespace temper {

int edit_distance(std::string_view a, std::string_view b) {
  std::vector<int> before(b.size() + 1), above(b.size() + 1), row(b.size() + 1);
  std::iota(above.begin(), above.end(), 0);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    row[0] = static_cast<int>(i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({above[j] + 1, row[j - 1] + 1, above[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], before[j - 2] + 1);
      }
    }
    std::swap(before, above);
    std::swap(above, row);
  }
  return above[b.size()];
}

std::string nearest(std::string_view name, const std::vector<std::string>& names) {
  std::string best;
  int best_distance = 1 + std::max(1, static_cast<int>(name.size()) / 3);
  for (const std::string& candidate : names) {
    const int distance = edit_distance(name, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  if (!best.empty() || name.size() < 4) {
    return best;
  }
  // A part of a dotted or longer name: "rank" for lora_parameters.rank, "warmup" for warmup_steps.
  for (const std::string& candidate : names) {
    const bool longer = candidate.size() > name.size();
    if (longer && candidate.find(name) != std::string::npos &&
        (best.empty() || candidate.size() < best.size())) {
      best = candidate;
    }
  }
  return best;
}

std::string did_you_mean(std::string_view name, const std::vector<std::string>& names) {
  const std::string name_meant = nearest(name, names);
  return name_meant.empty() ? "" : "; did you mean '" + name_meant + "'?";
}

} // namespace temper
