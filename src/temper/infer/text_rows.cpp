#include "temper/infer/text_rows.h"

#include <algorithm>
#include <numeric>

namespace temper {
namespace {

mx::array int_array(const std::vector<std::int32_t>& values) {
  return mx::array(values.data(), {static_cast<int>(values.size())}, mx::int32);
}

std::vector<std::int32_t> all_rows(const TextRows& rows) {
  std::vector<std::int32_t> indices(rows.starts.size());
  std::iota(indices.begin(), indices.end(), 0);
  return indices;
}

// Repeats the first column to `width` columns in all.
mx::array widened(const mx::array& text_BW, int width) {
  return text_BW.shape(1) == width ? text_BW
                                   : mx::pad(text_BW, std::vector<int>{1}, mx::Shape{width - text_BW.shape(1)},
                                             mx::Shape{0}, mx::array(0), "edge");
}

} // namespace

void set_starts(TextRows& rows, std::vector<std::int32_t> starts) {
  rows.starts = std::move(starts);
  rows.starts_B.reset();
  if (std::any_of(rows.starts.begin(), rows.starts.end(), [](auto start) { return start != 0; })) {
    rows.starts_B = int_array(rows.starts);
  }
}

void keep_rows(TextRows& rows, const std::vector<std::int32_t>& kept) {
  std::vector<std::int32_t> starts;
  std::vector<Draw> draws;
  for (const auto row : kept) {
    starts.push_back(rows.starts.at(static_cast<std::size_t>(row)));
    draws.push_back(rows.draws.at(static_cast<std::size_t>(row)));
  }
  if (static_cast<int>(kept.size()) < rows.num_rows()) {
    const auto index = int_array(kept);
    rows.cache.keep_rows(index);
    for (auto* array : {&rows.ahead, &rows.text}) {
      if (*array) {
        *array = mx::take(**array, index, 0);
      }
    }
  }
  const auto padding = kept.empty() ? 0 : *std::min_element(starts.begin(), starts.end());
  if (padding > 0) {
    const int columns = rows.cache.offset();
    rows.cache.drop_columns(padding);
    for (auto& start : starts) {
      start -= padding;
    }
    if (rows.text && rows.text->shape(1) > columns - padding) {
      const int width = rows.text->shape(1);
      rows.text =
          mx::slice(*rows.text, {0, width - (columns - padding)}, {static_cast<int>(kept.size()), width});
    }
  }
  set_starts(rows, std::move(starts));
  rows.draws = std::move(draws);
}

TextRows join_rows(TextRows above, TextRows below) {
  TextRows joined{KvCache::merge({{&above.cache, all_rows(above)}, {&below.cache, all_rows(below)}}), {}, {}};
  std::vector<std::int32_t> starts;
  for (const auto* part : {&above, &below}) {
    const int shift = joined.cache.offset() - part->cache.offset();
    for (const auto start : part->starts) {
      starts.push_back(start + shift);
    }
    joined.draws.insert(joined.draws.end(), part->draws.begin(), part->draws.end());
  }
  set_starts(joined, std::move(starts));
  joined.ahead = mx::concatenate({*above.ahead, *below.ahead});
  if (above.text) {
    const int width = std::max(above.text->shape(1), below.text->shape(1));
    joined.text = mx::concatenate({widened(*above.text, width), widened(*below.text, width)}, 0);
  }
  return joined;
}

} // namespace temper
