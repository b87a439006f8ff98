#include "temper/data/collate.h"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "temper/data/packing.h"

namespace temper {
namespace {

constexpr int kMlxLmMultiple = 32;

int pack_width(const LoaderOptions& options) {
  const int width = options.pack_width > 0 ? options.pack_width : options.max_seq_length;
  return (width + options.width_multiple - 1) / options.width_multiple * options.width_multiple;
}

// Writes inputs, targets and marks of the first `columns` + 1 tokens at `cell`.
void fill(HostBatch& batch, std::size_t cell, const ExampleView& example, std::size_t columns) {
  const auto at = static_cast<std::ptrdiff_t>(cell);
  const auto count = static_cast<std::ptrdiff_t>(columns);
  std::copy_n(example.tokens.begin(), count, batch.tokens.begin() + at);
  std::copy_n(example.tokens.begin() + 1, count, batch.targets.begin() + at);
  for (std::size_t i = 0; i < columns; ++i) {
    const std::uint8_t mark = example.supervised[i + 1] != 0 ? 1 : 0;
    batch.supervised[cell + i] = mark;
    batch.num_supervised += mark;
  }
}

RowLayout make_layout(std::span<const std::int32_t> lengths, const LoaderOptions& options) {
  if (!options.packing) {
    return layout_padded(lengths, options.width_multiple);
  }
  return options.few_shapes ? layout_in_few_shapes(lengths, pack_width(options))
                            : layout_packed(lengths, pack_width(options), options.width_multiple);
}

} // namespace

HostBatch blank_batch(int rows, int width) {
  HostBatch batch;
  batch.rows = rows;
  batch.width = width;
  const auto cells = static_cast<std::size_t>(rows) * static_cast<std::size_t>(width);
  batch.tokens.assign(cells, 0);
  batch.targets.assign(cells, 0);
  batch.supervised.assign(cells, 0);
  batch.positions.assign(cells, 0);
  batch.segments.assign(cells, -1);
  return batch;
}

void place_document(HostBatch& batch, const Document& document) {
  const auto segment = static_cast<std::int32_t>(batch.documents.size());
  const auto cell = static_cast<std::size_t>(document.row) * static_cast<std::size_t>(batch.width) +
                    static_cast<std::size_t>(document.start);
  for (std::int32_t i = 0; i < document.length; ++i) {
    batch.segments[cell + static_cast<std::size_t>(i)] = segment;
    batch.positions[cell + static_cast<std::size_t>(i)] = i;
  }
  batch.documents.push_back(document);
}

HostBatch collate(const TokenDataset& data, std::span<const std::uint32_t> examples,
                  const LoaderOptions& options) {
  std::vector<std::int32_t> lengths;
  lengths.reserve(examples.size());
  for (const auto index : examples) {
    lengths.push_back(static_cast<std::int32_t>(data.length(index)) - 1);
  }
  const auto layout = make_layout(lengths, options);
  HostBatch batch = blank_batch(layout.rows, layout.width);
  batch.packed = std::ranges::any_of(layout.placements, [](const auto& place) { return place.start > 0; });
  batch.num_examples = static_cast<std::int64_t>(examples.size());
  for (const auto& place : layout.placements) {
    const auto example = data[examples[static_cast<std::size_t>(place.example)]];
    const auto cell = static_cast<std::size_t>(place.row) * static_cast<std::size_t>(layout.width) +
                      static_cast<std::size_t>(place.start);
    fill(batch, cell, example, static_cast<std::size_t>(place.length));
    place_document(batch, {place.row, place.start, place.length});
    batch.num_tokens += place.length + 1;
  }
  return batch;
}

HostBatch collate_mlx_lm(const TokenDataset& data, std::span<const std::uint32_t> examples,
                         const LoaderOptions& options) {
  const auto limit = static_cast<std::size_t>(options.max_seq_length);
  std::size_t longest = 0;
  for (const auto index : examples) {
    longest = std::max(longest, data.length(index));
  }
  const std::size_t padded = 1 + (longest + kMlxLmMultiple - 1) / kMlxLmMultiple * kMlxLmMultiple;
  const std::size_t width = std::min(padded, limit) - 1;
  HostBatch batch = blank_batch(static_cast<int>(examples.size()), static_cast<int>(width));
  batch.num_examples = static_cast<std::int64_t>(examples.size());
  for (std::size_t row = 0; row < examples.size(); ++row) {
    const auto example = data[examples[row]];
    const std::size_t length = std::min(example.tokens.size(), limit);
    const std::size_t cell = row * width;
    fill(batch, cell, example, length - 1);
    if (length <= width) { // the last token is an input as well, and predicts the padding
      batch.tokens[cell + length - 1] = example.tokens[length - 1];
      const std::uint8_t mark = example.supervised[length - 1] != 0 ? 1 : 0;
      batch.supervised[cell + length - 1] = mark;
      batch.num_supervised += mark;
    }
    place_document(batch, {static_cast<std::int32_t>(row), 0, static_cast<std::int32_t>(width)});
    batch.num_tokens += static_cast<std::int64_t>(length);
  }
  return batch;
}

} // namespace temper
