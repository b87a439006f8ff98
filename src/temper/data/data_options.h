// What a run's configuration says about its data.
#pragma once

#include <filesystem>

#include "temper/config/run_config.h"
#include "temper/data/row_encoder.h"
#include "temper/data/row_format.h"

namespace temper {

struct DataOptions {
  FormatOptions format;
  EncodeOptions encode;
  bool skip_bad_rows = false;
  int max_bad_rows = 100;          // limit of skip_bad_rows
  std::filesystem::path cache_dir; // of token caches; empty: keep tokens in memory
};

// Throws ConfigError if data_format is none.
DataOptions data_options(const RunConfig& config);

// config.cache_dir, or $XDG_CACHE_HOME/temper, or ~/.cache/temper; empty if there is no home.
std::filesystem::path resolve_cache_dir(const RunConfig& config);

} // namespace temper
