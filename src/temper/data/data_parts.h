// The data sets that a run's configuration puts together: `data`, or those of mlx-lm's `hf_dataset`.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "temper/config/run_config.h"
#include "temper/data/data_options.h"

namespace temper {

// Rows [from, to) of some files together, as the `datasets` library's "train[:80%]" or "test[10:-5]" says.
struct RowRange {
  struct Bound {
    double value = 0; // negative: from the end
    bool percent = false;
    bool open = true; // the start or the end itself
  };
  Bound from;
  Bound to;

  bool is_all() const {
    return from.open && to.open;
  }
  // The range among `size` rows; percentages round to the nearest row.
  std::pair<std::size_t, std::size_t> of(std::size_t size) const;
};

struct SplitPart {
  std::vector<std::filesystem::path> files;
  RowRange range;
};

struct DataPart {
  DataOptions options; // `hf_dataset` entries may name their fields themselves
  std::vector<SplitPart> train;
  std::vector<SplitPart> valid;
  std::vector<SplitPart> test;
};

// Reads "train[:80%]", "a+b[:100]" ...: names with their ranges. Throws ConfigError.
std::vector<std::pair<std::string, RowRange>> parse_split(const std::string& text);

// What the run needs: train and valid if config.train, test if config.test; `valid` may be empty, and so may
// all parts of one set. As in mlx-lm, an `hf_dataset` without train_split and valid_split trains on
// "train[:80%]" and validates on "train[-10%:]".
// Throws ConfigError, DataError, and IoError as resolve_data does.
std::vector<DataPart> data_parts(const RunConfig& config);

} // namespace temper
