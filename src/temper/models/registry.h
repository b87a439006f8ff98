// The model families that the decoder runs, by config.json's model_type.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "temper/models/config_reader.h"
#include "temper/models/spec.h"

namespace temper {

struct Family {
  std::vector<std::string> model_types;
  std::string description; // e.g. "Llama 2, 3, 3.1, 3.2; TinyLlama; SmolLM2"
  DecoderSpec (*read_spec)(ConfigReader& config);
  // Our (mlx-lm's) name of a checkpoint's tensor; none: the tensor is not a parameter and is left out.
  std::optional<std::string> (*tensor_name)(const std::string& checkpoint_name);
};

// All families, in the order that `temper models` lists them.
const std::vector<Family>& families();

// Throws ModelError naming the model types there are.
const Family& find_family(const std::string& model_type, const std::string& origin);

// Reads config.json's contents; warns of unknown keys. Throws ModelError, with `origin`, if the family is
// unknown or a value is missing, of another type, or known to be unsupported.
DecoderSpec read_spec(const Json& config, const std::string& origin);

// Rope settings from rope_parameters (transformers 5) or rope_scaling + rope_theta (before), shared by
// families. Throws ModelError for a type that is not implemented.
RopeSpec read_rope(ConfigReader& config, int rotated_dims, float default_base);

} // namespace temper
