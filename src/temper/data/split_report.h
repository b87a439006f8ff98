// What became of a file's rows: counts, and where the rows are that did not become examples as they were.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "temper/base/json.h"

namespace temper {

struct RowProblem {
  std::int64_t line = 0;
  std::string what;
  std::string file = {}; // of several; empty where there is one
};

// A count of rows and the first ten of them.
struct RowList {
  static constexpr std::size_t kKept = 10;
  std::int64_t count = 0;
  std::vector<RowProblem> first;

  void add(std::int64_t line, std::string what);
  // Those of one of several files.
  void append(const RowList& other, const std::string& file);
};

struct SplitReport {
  std::string split; // train, valid, test
  std::string path;
  std::string format;
  bool format_detected = false;
  std::int64_t rows = 0;             // read, blank lines not counted
  std::int64_t examples = 0;         // of them, in the data set
  std::int64_t tokens = 0;           // of the examples
  std::int64_t supervised = 0;       // of the tokens: targets
  std::int64_t longest = 0;          // tokens of the longest row, before any cut
  std::vector<std::int64_t> lengths; // rows of (2^(i-1), 2^i] tokens, before any cut
  std::int64_t max_token_id = -1;
  std::int64_t never_stops = 0; // examples with a target but no stop token among the targets
  RowList bad;                  // malformed: not used
  RowList truncated;            // cut at max_seq_length
  RowList dropped;              // the cut would have taken every target: not used
  RowList unsupervised;         // without a target: not used
  bool from_cache = false;
  double seconds = 0;

  // Counts a row of `num_tokens` in `lengths` and `longest`.
  void add_length(std::int64_t num_tokens);
  Json to_json() const;
  static SplitReport from_json(const Json& json); // throws DataError
  // One line for people, e.g. "train.jsonl: 200 rows (chat), 40,321 tokens, 38% supervised".
  std::string summary() const;
  // What deserves a warning, a line each.
  std::vector<std::string> warnings() const;
};

// The reports of a split's files as that of the split; `path` is what stands for all files.
SplitReport join_reports(std::vector<SplitReport> reports, const std::string& path);

// 1234567 -> "1,234,567".
std::string with_commas(std::int64_t value);

} // namespace temper
