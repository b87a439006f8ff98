// Data files from data files: mixed, de-duplicated, sampled, split. `temper data prepare`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "temper/base/json.h"
#include "temper/data/row_format.h"
#include "temper/data/split_report.h"

namespace temper {

struct PrepareOptions {
  std::vector<std::filesystem::path> sources; // files, or folders of which the train file is taken
  std::vector<double> weights;                // a source each; empty: all rows of all sources
  std::filesystem::path out;                  // folder for train, valid and test .jsonl
  double valid_fraction = 0;
  double test_fraction = 0;
  std::int64_t sample = 0;  // rows of all splits together; 0: as many as there are
  bool deduplicate = false; // over all sources, so that no split repeats another's row
  bool overwrite = false;   // files that are there already
  bool skip_bad_rows = false;
  int max_bad_rows = 100; // of each source, with skip_bad_rows
  std::uint64_t seed = 0;
  FormatOptions format;
};

struct PrepareReport {
  struct Source {
    std::string path;
    std::string format;
    std::int64_t rows = 0;
    std::int64_t duplicates = 0; // left out
    std::int64_t used = 0;
    RowList bad; // left out
  };
  struct Output {
    std::string path;
    std::int64_t rows = 0;
  };
  std::vector<Source> sources;
  std::vector<Output> outputs;

  Json to_json() const;
};

// Reads the sources, shuffles their rows by the seed, and writes the splits atomically. Rows stay as they
// are where all sources have one format, and become {"messages": ...} where they differ. With weights the
// result has rows in their proportion, as many as possible or `sample`; no row is used twice.
// Throws ConfigError for options that don't fit, DataError (file:line) for bad rows, sources too small or of
// formats that can't be mixed, IoError.
PrepareReport prepare_files(const PrepareOptions& options);

} // namespace temper
