// Where a batch's examples lie in its rows.
// Dims: B rows, T row width.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace temper {

// Example `example` of the batch fills columns [start, start + length) of `row`.
struct Placement {
  std::int32_t example = 0;
  std::int32_t row = 0;
  std::int32_t start = 0;
  std::int32_t length = 0;
};

struct RowLayout {
  int rows = 0;                      // B
  int width = 0;                     // T
  std::vector<Placement> placements; // by row, then start
};

// The narrowest allowed width of at least `length` columns: multiples of `multiple` up to 16 of them, then
// eight steps an octave. So padding stays under an eighth, and the widths (each a compiled shape) are few.
int row_width(int length, int multiple);

// One example a row, in the batch's order.
RowLayout layout_padded(std::span<const std::int32_t> lengths, int width_multiple);

// First-fit-decreasing into rows of one width: `pack_width` (a multiple of width_multiple; widened if an
// example is longer), or a narrower one where that takes less room. One row takes any row_width(); several
// rows take five widths between pack_width / 2 and pack_width: so the shapes stay few.
RowLayout layout_packed(std::span<const std::int32_t> lengths, int pack_width, int width_multiple);

// First-fit-decreasing in few shapes: rows of 512, 1024, ... columns up to pack_width (or what the longest
// example takes), and as many rows, some perhaps empty, as make the batch's columns a row_width(., 512). Of the
// widths it is the one with the least to compute, where a token's attention grows with its row's width.
RowLayout layout_in_few_shapes(std::span<const std::int32_t> lengths, int pack_width);

// First-fit-decreasing into rows of `width`, which is no less than the longest.
RowLayout layout_rows(std::span<const std::int32_t> lengths, int width);

} // namespace temper
