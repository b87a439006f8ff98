// What config.json says about quantization, as mlx-lm writes it: docs/formats/quantization.md.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "temper/base/json.h"
#include "temper/quant/format.h"

namespace temper {

struct QuantConfig {
  std::optional<QuantFormat> base; // of packed layers by default; none: nothing is packed
  std::map<std::string, std::optional<QuantFormat>> layers; // those that differ; none: left unpacked

  bool operator==(const QuantConfig&) const = default;
};

// From config.json's "quantization", or "quantization_config" where that is all there is. Throws ModelError,
// with `origin`, if it is another tool's (quant_method gptq, awq ...) or names a format that there is not.
QuantConfig read_quant_config(const Json& config, const std::string& origin);

// The object to store under both keys; null if nothing is packed.
Json to_json(const QuantConfig& config);

} // namespace temper
