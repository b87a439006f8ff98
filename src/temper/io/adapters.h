// Adapters: PEFT's are read as well (peft.h); ours are in mlx-lm's format, both ways: adapters.safetensors
// ("model.layers.0.self_attn.q_proj.lora_a" [I, R], ".lora_b" [R, O], DoRA's ".m" [O]; what was trained whole
// beside them by the model's own names) and adapter_config.json (fine_tune_type, num_layers, lora_parameters).
// Format: docs/formats/adapters.md; source: mlx-lm's tuner/utils.py.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "temper/base/json.h"
#include "temper/io/model_folder.h"
#include "temper/models/spec.h"
#include "temper/nn/lora.h"

namespace temper {

struct Adapter {
  std::string fine_tune_type = "lora"; // lora, dora, full
  int num_layers = -1;                 // as adapter_config.json says it
  LoraConfig lora;
  Params params; // evaluated, fp32: factors and whole weights; make_ready() casts and adds to them
};

// `path`: a folder, or a *.safetensors file beside its adapter_config.json; PEFT's or mlx-lm's. Throws
// CheckpointError if a file is missing or unreadable, ModelError naming the tensor that does not fit `spec`.
Adapter load_adapter(const std::filesystem::path& path, const DecoderSpec& spec);

// Prepares a loaded adapter for forward passes of `model`: its dtype, and what DoRA would compute anew each
// token. Evaluated.
void make_ready(Adapter& adapter, const Model& model);

// The parameters alone, checked against the names and shapes of `expected` (resume_adapter_file), whose layers
// `lora` describes.
Params load_adapter_params(const std::filesystem::path& file, const Params& expected,
                           const LoraConfig& lora = {});

// The same for resume_adapter_file: a file as above, a folder, or PEFT's, whose B are made to fit `lora`'s
// scales. Throws as load_adapter() does.
Params load_adapter_start(const std::filesystem::path& path, const DecoderSpec& spec, const Params& expected,
                          const LoraConfig& lora);

// Writes `file` ("adapters.safetensors", "0000100_adapters.safetensors") into `folder`, atomically. Every layer
// is written for lora.scale, the one that readers know: B carries what differs in a layer.
void save_adapter_params(const std::filesystem::path& folder, const std::string& file, const Params& params,
                         const LoraConfig& lora = {});

// Writes adapter_config.json: mlx-lm's keys, then `details` (the run's resolved config).
void save_adapter_config(const std::filesystem::path& folder, const std::string& fine_tune_type, int num_layers,
                         const LoraConfig& lora, const std::vector<std::string>& keys, const Json& details);

} // namespace temper
