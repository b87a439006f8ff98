// Texts that grow together, one row each: what is kept of them between two passes.
// Dims: B rows, W columns.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "temper/infer/kv_cache.h"
#include "temper/infer/sampler.h"

namespace temper {

// Row r's tokens stand in columns [starts[r], cache.offset()), padding before them.
struct TextRows {
  KvCache cache;
  std::vector<std::int32_t> starts;
  std::vector<Draw> draws;          // of each row's newest token
  std::optional<mx::array> ahead{}; // int32 [B]: each row's newest token, sampled and not yet read
  // int32 [B, W']: the tokens of the last columns (all of them or as many as sampling looks at), where a pass
  // needs them. Padding repeats a row's first token, so that it adds none to those that the row has.
  std::optional<mx::array> text{};
  std::optional<mx::array> starts_B{}; // `starts`, where one is not 0

  int num_rows() const {
    return static_cast<int>(starts.size());
  }
  // Tokens of row r that have been read.
  int length(std::size_t row) const {
    return cache.offset() - starts[row];
  }
};

// Sets `starts` and its array.
void set_starts(TextRows& rows, std::vector<std::int32_t> starts);

// Keeps these rows (ascending indices), and no more columns than the longest of them has. Lazy.
void keep_rows(TextRows& rows, const std::vector<std::int32_t>& kept);

// The rows of `above` and `below`, padded on the left to the longest; both have their `ahead`. Lazy.
TextRows join_rows(TextRows above, TextRows below);

} // namespace temper
