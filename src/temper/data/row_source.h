// Rows of a data file, one at a time, wherever they come from: JSON Lines, a JSON array, CSV, TSV, plain text
// or Parquet. A text file is memory-mapped and Parquet read in batches, so the size does not matter.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "temper/base/json.h"

namespace temper {

// Why one row can't be used, without its place; whoever knows file and line adds them.
class RowError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A row's bytes, borrowed from the source, whose end they must not outlive.
struct RawRow {
  std::int64_t line = 0; // where it starts, from 1; in a Parquet file the row's number
  std::string_view text;
  std::shared_ptr<const std::string> owner = nullptr; // of the text, where it is not the file itself
  std::size_t file = 0;                               // of several: its index
};

class RowSource {
 public:
  virtual ~RowSource() = default;
  // The next row that is not blank; false at the end.
  virtual bool next(RawRow& row) = 0;
  // The row as an object. Thread-safe. Throws RowError if it is malformed.
  virtual Json parse(const RawRow& row) const = 0;
};

// Opens by extension: .jsonl (.ndjson), .json (an array of objects, or JSON Lines), .csv, .tsv (first line:
// column names; RFC 4180 quoting), .txt (a row a line, under the key `text_key`) or .parquet (parquet_rows.h).
// A UTF-8 byte order mark is skipped, line ends may be CRLF.
// Throws IoError if it can't be read; DataError if it is empty, UTF-16, or of another kind.
std::unique_ptr<RowSource> open_rows(const std::filesystem::path& path, const std::string& text_key = "text");

// The rows of several files, one after another; each is opened when its first row is asked for, and then
// throws as open_rows does.
std::unique_ptr<RowSource> open_rows(const std::vector<std::filesystem::path>& paths,
                                     const std::string& text_key = "text");

// Whether open_rows knows the extension.
bool is_data_file(const std::filesystem::path& path);

// Parses one JSON object. Throws RowError with the column if it is not JSON, and if it is no object.
Json parse_row(std::string_view text);

} // namespace temper
