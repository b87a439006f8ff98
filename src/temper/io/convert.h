// A model folder into another of mlx-lm's layout: packed, unpacked, or in another dtype.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "temper/base/json.h"
#include "temper/io/model_folder.h"
#include "temper/models/quant_plan.h"

namespace temper {

struct ConvertOptions {
  std::filesystem::path model;
  std::filesystem::path out;             // must not exist, or be an empty folder
  std::optional<QuantChoice> quantize{}; // what is packed already stays so, unless
  bool dequantize = false;               // it is unpacked first
  std::string dtype = "auto";            // of what is not packed; auto: as config.json says
  SaveProgress progress{};
};

struct ConvertReport {
  std::int64_t parameters = 0;
  std::int64_t bytes_before = 0;
  std::int64_t bytes_after = 0;
  Json quantization; // config.json's; null if nothing is packed

  double bits_before() const; // a weight
  double bits_after() const;
};

// Writes a folder beside `out` and renames it once it is whole; nothing is left if it throws. Evaluates a
// tensor at a time, holding one file of weights. Throws ConfigError if `out` is taken or the choice is wrong,
// ModelError, IoError.
ConvertReport convert_model(const ConvertOptions& options);

} // namespace temper
