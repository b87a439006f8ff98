// A Hugging Face model folder: config.json and one or many safetensors files.
#pragma once

#include <filesystem>
#include <optional>

#include "temper/base/json.h"
#include "temper/models/spec.h"
#include "temper/nn/params.h"

namespace temper {

struct Model {
  std::filesystem::path path;
  Json config; // config.json as it stands
  DecoderSpec spec;
  Params params;                 // by mlx-lm's names; evaluated
  mx::Dtype dtype = mx::float32; // of every parameter
};

// config.json alone. Throws ModelError if the folder or the file is missing or unsupported.
DecoderSpec load_spec(const std::filesystem::path& folder, Json* config = nullptr);

// What config.json says the weights are stored in; fp32 if it does not say.
mx::Dtype stored_dtype(const Json& config);

// The dtype that a run computes in for "auto": what the folder stores, except fp32 where the device is a CPU
// (half precision there is emulated, at a thirtieth of the speed).
mx::Dtype resolve_dtype(const std::string& dtype, const Json& config);

// Reads, checks and casts every tensor that the spec asks for. Evaluating. Throws ModelError naming each
// missing, extra or misshaped tensor (the first five of each).
Model load_model(const std::filesystem::path& folder, const std::string& dtype = "auto");

// Checks `params` against what `spec` expects; `origin` names the source. Throws as load_model() does.
void check_tensors(const DecoderSpec& spec, const Params& params, const std::string& origin);

// Writes params (cast to `dtype` if given), config.json and the source folder's tokenizer files to `folder`.
void save_model(const std::filesystem::path& folder, const Model& source, const Params& params,
                std::optional<mx::Dtype> dtype = std::nullopt);

} // namespace temper
