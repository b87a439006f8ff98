// Adapters as PEFT's save_pretrained() writes them: adapter_model.safetensors, whose names are the hub's
// modules behind "base_model.model." and whose factors are the transposes of ours, and adapter_config.json.
// Format: docs/formats/adapters.md; source: PEFT 0.21, save_and_load.py and tuners/lora.
#pragma once

#include <filesystem>
#include <string>

#include "temper/io/adapters.h"
#include "temper/io/peft_config.h"
#include "temper/models/spec.h"

namespace temper {

// The tensors' file of a PEFT folder. Throws CheckpointError if it holds none, or only pickled ones.
std::filesystem::path find_peft_file(const std::filesystem::path& folder);

// `params` are as load_adapter() describes; unchecked against the model's shapes. Names that are not the
// language model's (a vision tower's) are left out with a warning, as are those that the config does not
// choose. Throws CheckpointError naming what Temper does not compute, ModelError naming a tensor that cannot be
// placed.
Adapter load_peft_adapter(const std::filesystem::path& file, const Json& config, const DecoderSpec& spec);

// Writes both files so that PEFT computes the same over the model that `base_model` names. Every layer keeps
// its scale and rank (alpha_pattern, rank_pattern); whole modules become modules_to_save. Evaluates. Throws
// ModelError naming a layer that PEFT has no module for: DoRA on an embedding, experts that the hub keeps as
// one tensor, whole experts; ConfigError for full fine-tuning.
void save_peft_adapter(const std::filesystem::path& folder, const Adapter& adapter, const DecoderSpec& spec,
                       const std::string& base_model);

} // namespace temper
