#include "temper/data/split_batch.h"

#include <algorithm>
#include <cstddef>
#include <numeric>

#include "temper/data/collate.h"
#include "temper/data/packing.h"

namespace temper {
namespace {

constexpr int kRowMultiple = 512; // columns, where shapes are to be few
// Of an H200 with llama-1b: 4,096 columns at once are 3 to 10% slower than 8,192, and more are no faster.
constexpr double kFewestTokens = 3584;
constexpr double kMostTokens = 8192;
constexpr double kAboveUsual = 1.25;

std::vector<std::int32_t> lengths_of(const HostBatch& batch) {
  std::vector<std::int32_t> lengths;
  lengths.reserve(batch.documents.size());
  for (const auto& document : batch.documents) {
    lengths.push_back(document.length);
  }
  return lengths;
}

// The documents of `from` that `layout` places, as a batch.
HostBatch gather(const HostBatch& from, const RowLayout& layout) {
  HostBatch part = blank_batch(layout.rows, layout.width);
  for (const auto& place : layout.placements) {
    const auto& document = from.documents[static_cast<std::size_t>(place.example)];
    const auto source = static_cast<std::ptrdiff_t>(document.row) * from.width + document.start;
    const auto target = static_cast<std::ptrdiff_t>(place.row) * layout.width + place.start;
    const auto copy = [&](const auto& values, auto& into) {
      std::copy_n(values.begin() + source, document.length, into.begin() + target);
    };
    copy(from.tokens, part.tokens);
    copy(from.targets, part.targets);
    copy(from.supervised, part.supervised);
    place_document(part, {place.row, place.start, place.length});
    part.packed = part.packed || place.start > 0;
    part.num_tokens += place.length + 1;
    ++part.num_examples;
  }
  part.num_supervised = std::accumulate(part.supervised.begin(), part.supervised.end(), std::int64_t{0});
  return part;
}

// Rows [first, first + count) of `layout`.
RowLayout some_rows(const RowLayout& layout, int first, int count) {
  RowLayout some{count, layout.width, {}};
  for (auto place : layout.placements) {
    if (place.row >= first && place.row < first + count) {
      place.row -= first;
      some.placements.push_back(place);
    }
  }
  return some;
}

std::vector<RowLayout> packed_parts(const HostBatch& batch, const LoaderOptions& options) {
  const auto lengths = lengths_of(batch);
  const int longest = *std::ranges::max_element(lengths);
  const int multiple =
      options.few_shapes ? std::max(kRowMultiple, options.width_multiple) : options.width_multiple;
  const auto bound = static_cast<int>(options.micro_batch_tokens / multiple * multiple);
  const int width = std::max(row_width(longest, multiple), std::min(batch.width, bound));
  const auto layout = layout_rows(lengths, width);
  const int fitting = std::max(1, static_cast<int>(options.micro_batch_tokens / width));
  const int count = (layout.rows + fitting - 1) / fitting;
  const int rows = (layout.rows + count - 1) / count;
  std::vector<RowLayout> parts;
  for (int first = 0; first < layout.rows; first += rows) {
    // Empty rows keep the last part in the others' shape where a new shape is dear.
    const int own = options.few_shapes ? rows : std::min(rows, layout.rows - first);
    parts.push_back(some_rows(layout, first, own));
  }
  return parts;
}

std::vector<RowLayout> padded_parts(const HostBatch& batch, const LoaderOptions& options) {
  const auto lengths = lengths_of(batch);
  std::vector<std::int32_t> order(lengths.size());
  std::iota(order.begin(), order.end(), 0);
  const auto length = [&](std::int32_t i) { return lengths[static_cast<std::size_t>(i)]; };
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return length(a) > length(b); });
  std::vector<RowLayout> parts;
  for (const auto example : order) {
    if (parts.empty() ||
        std::int64_t{parts.back().rows + 1} * parts.back().width > options.micro_batch_tokens) {
      parts.push_back({0, row_width(length(example), options.width_multiple), {}});
    }
    parts.back().placements.push_back({example, parts.back().rows++, 0, length(example)});
  }
  return parts;
}

} // namespace

std::vector<HostBatch> split_batch(HostBatch batch, const LoaderOptions& options) {
  std::vector<HostBatch> parts;
  if (options.micro_batch_tokens == 0 || num_columns(batch) <= options.micro_batch_tokens ||
      options.compat_mlx_lm || batch.documents.size() < 2) {
    parts.push_back(std::move(batch));
    return parts;
  }
  for (const auto& layout : options.packing ? packed_parts(batch, options) : padded_parts(batch, options)) {
    parts.push_back(gather(batch, layout));
  }
  return parts;
}

std::int64_t usual_micro_batch_tokens(const TokenDataset& data, const LoaderOptions& options) {
  if (options.compat_mlx_lm || data.size() == 0) {
    return 0;
  }
  double tokens = 0;
  for (std::size_t i = 0; i < data.size(); ++i) {
    tokens += static_cast<double>(data.length(i));
  }
  const double usual = options.batch_tokens > 0
                           ? static_cast<double>(options.batch_tokens)
                           : tokens / static_cast<double>(data.size()) * options.batch_size;
  return static_cast<std::int64_t>(std::clamp(kAboveUsual * usual, kFewestTokens, kMostTokens));
}

} // namespace temper
