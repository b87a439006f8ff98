// Rows of a data file, one at a time, wherever they come from: JSON Lines, a JSON array, CSV, TSV or plain
// text. The file is memory-mapped, so its size does not matter.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

#include "temper/base/json.h"

namespace temper {

// Why one row can't be used, without its place; whoever knows file and line adds them.
class RowError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A row's bytes, borrowed from the file.
struct RawRow {
  std::int64_t line = 0; // where it starts, from 1
  std::string_view text;
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
// column names; RFC 4180 quoting) or .txt (a row a line, under the key `text_key`).
// A UTF-8 byte order mark is skipped, line ends may be CRLF.
// Throws IoError if it can't be read; DataError if it is empty, UTF-16, or of another kind.
std::unique_ptr<RowSource> open_rows(const std::filesystem::path& path, const std::string& text_key = "text");

// Whether open_rows knows the extension.
bool is_data_file(const std::filesystem::path& path);

// Parses one JSON object. Throws RowError with the column if it is not JSON, and if it is no object.
Json parse_row(std::string_view text);

} // namespace temper
