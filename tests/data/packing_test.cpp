#include "temper/data/packing.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <set>
#include <utility>
#include <vector>

using temper::layout_packed;
using temper::layout_padded;
using temper::row_width;
using temper::RowLayout;

namespace {

// Every example once, inside its row, overlapping nothing.
void check_sound(const RowLayout& layout, const std::vector<std::int32_t>& lengths) {
  std::set<std::int32_t> seen;
  std::int32_t row = 0;
  std::int32_t column = 0;
  for (const auto& place : layout.placements) {
    CHECK(place.length == lengths[static_cast<std::size_t>(place.example)]);
    CHECK(place.row < layout.rows);
    CHECK(place.row >= row);
    if (place.row != row) {
      row = place.row;
      column = 0;
    }
    CHECK(place.start == column);
    column += place.length;
    CHECK(column <= layout.width);
    seen.insert(place.example);
  }
  CHECK(seen.size() == lengths.size());
}

} // namespace

TEST_CASE("widths are multiples of 128 that stay few and close") {
  CHECK(row_width(1, 128) == 128);
  CHECK(row_width(128, 128) == 128);
  CHECK(row_width(129, 128) == 256);
  CHECK(row_width(2048, 128) == 2048);
  CHECK(row_width(2049, 128) == 2304);
  std::set<int> widths;
  for (int length = 1; length <= 32768; ++length) {
    const int width = row_width(length, 128);
    REQUIRE(width % 128 == 0);
    REQUIRE(width >= length);
    REQUIRE((length < 2048 || width - length <= length / 8));
    widths.insert(width);
  }
  CHECK(widths.size() == 16 + 4 * 8);
}

TEST_CASE("first-fit-decreasing fills rows") {
  const std::vector<std::int32_t> lengths = {100, 900, 1100, 500, 1900, 140, 90};
  const auto layout = layout_packed(lengths, 2048, 128);
  check_sound(layout, lengths);
  CHECK(layout.width == 2048);
  CHECK(layout.rows == 3);
}

TEST_CASE("what fits one narrower row gets one") {
  const std::vector<std::int32_t> lengths = {100, 30, 120};
  const auto layout = layout_packed(lengths, 2048, 128);
  check_sound(layout, lengths);
  CHECK(layout.rows == 1);
  CHECK(layout.width == 256);
}

TEST_CASE("several rows become narrower together when that saves room") {
  const std::vector<std::int32_t> lengths = {1000, 1000, 1010};
  const auto layout = layout_packed(lengths, 2048, 128);
  check_sound(layout, lengths);
  CHECK(layout.rows == 3);
  CHECK(layout.width == 1024);
}

TEST_CASE("an example longer than pack_width still has its row") {
  const std::vector<std::int32_t> lengths = {3000, 10};
  const auto layout = layout_packed(lengths, 1024, 128);
  check_sound(layout, lengths);
  CHECK(layout.width >= 3000);
}

TEST_CASE("random batches: sound, dense, few shapes") {
  std::mt19937 random(1);
  std::lognormal_distribution<double> lengths_of(5.0, 0.75);
  std::set<std::pair<int, int>> shapes;
  std::int64_t used = 0;
  std::int64_t room = 0;
  for (int trial = 0; trial < 500; ++trial) {
    std::vector<std::int32_t> lengths(40);
    for (auto& length : lengths) {
      length = std::clamp(static_cast<int>(lengths_of(random)), 15, 2047);
      used += length;
    }
    const auto layout = layout_packed(lengths, 2048, 128);
    check_sound(layout, lengths);
    CHECK(layout.width % 128 == 0);
    room += static_cast<std::int64_t>(layout.rows) * layout.width;
    shapes.insert({layout.rows, layout.width});
  }
  CHECK(static_cast<double>(used) > 0.9 * static_cast<double>(room));
  CHECK(shapes.size() < 30);
}

TEST_CASE("padded rows keep the batch's order") {
  const std::vector<std::int32_t> lengths = {5, 300, 7};
  const auto layout = layout_padded(lengths, 128);
  check_sound(layout, lengths);
  CHECK(layout.rows == 3);
  CHECK(layout.width == 384);
  CHECK(layout.placements[1].example == 1);
}

TEST_CASE("batches in few shapes: sound, of a bounded number of sizes, narrow where examples are short") {
  std::mt19937 random(1);
  std::lognormal_distribution<double> lengths_of(5.0, 0.75);
  for (const int count : {8, 40}) {
    std::set<std::pair<int, int>> shapes;
    std::int64_t used = 0;
    std::int64_t room = 0;
    for (int trial = 0; trial < 500; ++trial) {
      std::vector<std::int32_t> lengths(static_cast<std::size_t>(count));
      for (auto& length : lengths) {
        length = std::clamp(static_cast<int>(lengths_of(random)), 15, 2047);
        used += length;
      }
      const auto layout = temper::layout_in_few_shapes(lengths, 2048);
      check_sound(layout, lengths);
      CHECK(layout.width % 512 == 0);
      room += static_cast<std::int64_t>(layout.rows) * layout.width;
      shapes.insert({layout.rows, layout.width});
    }
    CHECK(static_cast<double>(used) > 0.75 * static_cast<double>(room));
    CHECK(shapes.size() < 35);
  }
}

TEST_CASE("few shapes hold an example of any length, and full rows exactly") {
  const std::vector<std::int32_t> longest = {3000, 10};
  check_sound(temper::layout_in_few_shapes(longest, 1024), longest);
  const std::vector<std::int32_t> full(4, 2048);
  const auto layout = temper::layout_in_few_shapes(full, 2048);
  CHECK(layout.rows == 4);
  CHECK(layout.width == 2048);
}
