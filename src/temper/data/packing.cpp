#include "temper/data/packing.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace temper {
namespace {

constexpr int kFineSteps = 16;
constexpr int kShapeMultiple = 512;
constexpr double kAttentionWidth =
    4800;                        // a row this wide spends as much on masked attention as on the rest (H200)
constexpr int kPackedWidths = 8; // steps of pack_width, of which the upper half is used

int round_up(int value, int multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Indices of `lengths`, longest first; equal ones keep their order.
std::vector<std::int32_t> by_decreasing_length(std::span<const std::int32_t> lengths) {
  std::vector<std::int32_t> order(lengths.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) {
    return lengths[static_cast<std::size_t>(a)] > lengths[static_cast<std::size_t>(b)];
  });
  return order;
}

RowLayout first_fit(std::span<const std::int32_t> lengths, std::span<const std::int32_t> order, int width) {
  RowLayout layout;
  layout.width = width;
  std::vector<std::int32_t> used;
  for (const auto example : order) {
    const auto length = lengths[static_cast<std::size_t>(example)];
    std::size_t row = 0;
    while (row < used.size() && used[row] + length > width) {
      ++row;
    }
    if (row == used.size()) {
      used.push_back(0);
    }
    layout.placements.push_back({example, static_cast<std::int32_t>(row), used[row], length});
    used[row] += length;
  }
  layout.rows = static_cast<int>(used.size());
  std::stable_sort(layout.placements.begin(), layout.placements.end(),
                   [](const auto& a, const auto& b) { return a.row < b.row; });
  return layout;
}

std::int64_t area(const RowLayout& layout) {
  return static_cast<std::int64_t>(layout.rows) * layout.width;
}

} // namespace

int row_width(int length, int multiple) {
  int step = multiple;
  while (length > kFineSteps * step) {
    step *= 2;
  }
  return round_up(std::max(length, 1), step);
}

RowLayout layout_padded(std::span<const std::int32_t> lengths, int width_multiple) {
  RowLayout layout;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    const auto index = static_cast<std::int32_t>(i);
    layout.placements.push_back({index, index, 0, lengths[i]});
  }
  layout.rows = static_cast<int>(lengths.size());
  layout.width = row_width(lengths.empty() ? 1 : *std::ranges::max_element(lengths), width_multiple);
  return layout;
}

RowLayout layout_packed(std::span<const std::int32_t> lengths, int pack_width, int width_multiple) {
  const auto order = by_decreasing_length(lengths);
  const std::int64_t total = std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
  const int longest = order.empty() ? 1 : lengths[static_cast<std::size_t>(order.front())];
  const int widest = std::max(pack_width, row_width(longest, width_multiple));
  if (total <= widest) {
    return first_fit(lengths, order, std::min(widest, row_width(static_cast<int>(total), width_multiple)));
  }
  RowLayout best = first_fit(lengths, order, widest);
  for (int eighths = kPackedWidths - 1; eighths >= kPackedWidths / 2; --eighths) {
    const auto width =
        round_up(static_cast<int>(std::int64_t{widest} * eighths / kPackedWidths), width_multiple);
    if (width < longest) {
      break;
    }
    auto layout = first_fit(lengths, order, width);
    if (area(layout) < area(best)) {
      best = std::move(layout);
    }
  }
  return best;
}

RowLayout layout_in_few_shapes(std::span<const std::int32_t> lengths, int pack_width) {
  const auto order = by_decreasing_length(lengths);
  const int longest = order.empty() ? 1 : lengths[static_cast<std::size_t>(order.front())];
  const int narrowest = row_width(longest, kShapeMultiple);
  const int widest = std::max(round_up(pack_width, kShapeMultiple), narrowest);
  RowLayout best;
  double least = std::numeric_limits<double>::infinity();
  for (int width = narrowest; width <= widest; width *= 2) {
    auto layout = first_fit(lengths, order, width);
    const int columns = row_width(std::max(1, layout.rows) * width, kShapeMultiple);
    layout.rows = (columns + width - 1) / width;
    const double cost = static_cast<double>(area(layout)) * (1.0 + width / kAttentionWidth);
    if (cost < least) {
      least = cost;
      best = std::move(layout);
    }
  }
  return best;
}

RowLayout layout_rows(std::span<const std::int32_t> lengths, int width) {
  return first_fit(lengths, by_decreasing_length(lengths), width);
}

} // namespace temper
