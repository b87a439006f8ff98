// Adapters read, put together and written in mlx-lm's format or PEFT's: what `temper adapter` does.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "temper/io/adapters.h"

namespace temper {

enum class AdapterFormat { mlx_lm, peft };

struct AdapterSource {
  std::filesystem::path path;
  double weight = 1.0;
};

struct ConvertAdapterOptions {
  std::vector<AdapterSource> sources; // at least one
  std::filesystem::path model;        // a folder with the base's config.json
  std::string base_model;             // what the adapter will call its base
  std::filesystem::path out;          // must not exist, or be an empty folder
  AdapterFormat format = AdapterFormat::mlx_lm;
  std::optional<int> rank; // lower every layer to it
  // The folder with the base's weights, asked for only where they are needed: mlx-lm reads whole tensors beside
  // factors from no file, so that those become whole weights with the factors merged in.
  std::function<std::filesystem::path()> weights;
  // Called between steps of the work, before `out` is there; may throw, to end it. Nothing is left then.
  std::function<void()> progress = [] {};
};

struct ConvertAdapterReport {
  std::string fine_tune_type; // as written
  int layers = 0;             // with factors
  int whole_tensors = 0;
  int rank = 0;                 // the highest
  std::optional<double> lost{}; // with `rank`: of the updates' norm, 0 to 1
};

// Evaluating. Writes beside `out` and renames. Throws as load_adapter(), combine_adapters(),
// save_peft_adapter() and DraftFolder do; ModelError if whole weights are asked of a quantized base.
ConvertAdapterReport convert_adapter(const ConvertAdapterOptions& options);

} // namespace temper
