// Parquet, through the Rust library: a few megabytes of rows at a time.
#pragma once

#include <filesystem>
#include <memory>

#include "temper/data/row_source.h"

namespace temper {

// Rows as objects of the file's columns; a row's line is its number in the file. Nulls within lists and
// structs are left out, as if the member were not there: Parquet has no other way to say so.
// Throws IoError if the file can't be read; DataError if it is no Parquet file, cut short, damaged, empty, or
// compressed by other than snappy, gzip or zstd. next() throws DataError where the rows are damaged.
std::unique_ptr<RowSource> open_parquet_rows(const std::filesystem::path& path);

} // namespace temper
