// The model families that the decoder runs, by config.json's model_type.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "temper/models/config_reader.h"
#include "temper/models/spec.h"
#include "temper/models/weight_layout.h"

namespace temper {

struct Family {
  std::vector<std::string> model_types;
  std::string description; // e.g. "Llama 2, 3, 3.1, 3.2; TinyLlama; SmolLM2"
  // What of the architecture beyond Llama's is computed, for `temper models`: "sliding windows".
  std::vector<std::string> features;
  DecoderSpec (*read_spec)(ConfigReader& config);
  WeightLayout layout = {};
  // The object of config.json that describes the language model, where there are others beside it.
  const char* section = nullptr;
  // Layers, by layer_key(), that quantizing keeps at 8 bits.
  std::vector<std::string> sensitive = {};
};

// All families, in the order that `temper models` lists them.
const std::vector<Family>& families();

// Throws ModelError naming the model types there are.
const Family& find_family(const std::string& model_type, const std::string& origin);

// Reads config.json's contents; warns of unknown keys. Throws ModelError, with `origin`, if the family is
// unknown or a value is missing, of another type, or known to be unsupported.
DecoderSpec read_spec(const Json& config, const std::string& origin);

// What most families' config.json says alike: sizes, heads, norm_eps, tied head, and one LayerSpec for each
// layer.
DecoderSpec read_common(ConfigReader& config);

// Rope settings from rope_parameters (transformers 5) or rope_scaling + rope_theta (before), shared by
// families; partial_rotary_factor of a head's features turn. Throws ModelError for a type that is not
// implemented.
RopeSpec read_rope(ConfigReader& config, int head_dim, float default_base);

// The part `section` ("full_attention") of rope_parameters, where a model has several ropes.
RopeSpec read_rope_section(ConfigReader& config, const std::string& section, int head_dim, float default_base);

// Which layers layer_types calls `kind`, the others being full_attention; without layer_types those that
// `otherwise` picks. Throws ModelError if layer_types has another length or other words.
std::vector<bool> layers_of_kind(ConfigReader& config, const DecoderSpec& spec, const std::string& kind,
                                 const std::function<bool(int layer)>& otherwise);

// Gives `window` to the layers that layer_types calls sliding_attention; without layer_types to those that
// `is_sliding` picks. Throws ModelError if the window is negative, and as layers_of_kind() does.
void read_windows(ConfigReader& config, DecoderSpec& spec, int window,
                  const std::function<bool(int layer)>& is_sliding);

} // namespace temper
