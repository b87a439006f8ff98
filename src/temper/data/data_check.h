// What `temper data check` finds out about a data set before anything is trained on it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "temper/config/run_config.h"
#include "temper/data/split_report.h"
#include "temper/text/tokenizer.h"

namespace temper {

// Rows that train the same, e.g. in train and in test.
struct Duplicates {
  std::string split;  // of the later one
  std::string before; // of the earlier one; the same split, or another
  std::int64_t count = 0;
  struct Place {
    std::string file; // of several; empty where the split is one file
    std::int64_t line = 0;
  };
  std::vector<std::pair<Place, Place>> first; // the later and the earlier, ten at most
};

struct DataCheck {
  std::vector<SplitReport> splits; // without a tokenizer: no counts of tokens
  std::vector<Duplicates> duplicates;
  bool tokenized = false;
  int max_seq_length = 0;

  // Whether training would refuse the data as it is.
  bool has_bad_rows() const;
  Json to_json() const;
  std::string to_text() const; // several lines
};

// Reads every split of `config.data` (a folder or a file) to its end, whatever on_bad_row says.
// `tokenizer` null: only rows, formats and duplicates. `model_vocab_size`: as for prepare_data.
// Throws DataError for a data set that has no rows at all, ConfigError for a wrong option.
DataCheck check_data(const RunConfig& config, const std::shared_ptr<const Tokenizer>& tokenizer,
                     int model_vocab_size);

} // namespace temper
