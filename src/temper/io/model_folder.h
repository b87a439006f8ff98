// A Hugging Face model folder: config.json and one or many safetensors files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "temper/base/json.h"
#include "temper/models/spec.h"
#include "temper/nn/params.h"
#include "temper/quant/format.h"
#include "temper/quant/quant_config.h"

namespace temper {

struct Model {
  std::filesystem::path path;
  Json config; // config.json as it stands
  DecoderSpec spec;
  Params params;                               // by mlx-lm's names; evaluated
  mx::Dtype dtype = mx::float32;               // of every parameter that is not packed
  std::map<std::string, QuantFormat> packed{}; // the layers whose weights are packed (quant/packed.h)
};

// Whether packed weights stay so in memory. By device: on a GPU; a CPU computes faster with dense ones.
enum class PackedWeights { by_device, keep, unpack };

// config.json alone. Throws ModelError if the folder or the file is missing or unsupported.
DecoderSpec load_spec(const std::filesystem::path& folder, Json* config = nullptr);

// What config.json says the weights are stored in, if it does; fp32 else.
std::optional<mx::Dtype> stated_dtype(const Json& config);
mx::Dtype stored_dtype(const Json& config);

// The dtype that a run computes in for "auto": what the folder stores, except fp32 where the device is a CPU
// (half precision there is emulated, at a thirtieth of the speed).
mx::Dtype resolve_dtype(const std::string& dtype, const Json& config);

// Reads, checks and casts every tensor that the spec asks for; packed ones stay as they are stored, or are
// unpacked. Evaluating. Throws ModelError naming each missing, extra or misshaped tensor (the first five of
// each), or the layer that config.json's "quantization" is wrong about.
Model load_model(const std::filesystem::path& folder, const std::string& dtype = "auto",
                 PackedWeights packed = PackedWeights::by_device);

// The same tensors as they are stored, checked and unevaluated; `dtype` is what config.json says.
Model open_model(const std::filesystem::path& folder);

// What the checkpoint holds beside the language model (a vision tower, heads for drafts), as it is stored.
// Lazy.
Params other_tensors(const std::filesystem::path& folder);

// Checks `params` against what `spec` expects, packed or not; `origin` names the source. The packed layers'
// formats. Throws as load_model() does.
std::map<std::string, QuantFormat> check_tensors(const DecoderSpec& spec, const Params& params,
                                                 const std::string& origin);

// Whether tensor `name` is a part of a packed layer.
bool is_packed_part(const Model& model, const std::string& name);

// Writes `params`, config.json and the source folder's tokenizer files to `folder`, as mlx-lm lays them out.
// What is not packed is cast to `dtype` if given. Evaluates a file at a time. Throws IoError.
void save_model(const std::filesystem::path& folder, const Model& source, const Params& params,
                std::optional<mx::Dtype> dtype = std::nullopt);

// Makes a config say how the weights beside it are packed, and their dtype if given.
void set_weights(Json& config, const QuantConfig& quantization, std::optional<mx::Dtype> dtype);

// Whether a tensor is fp32 whatever the others are, as in mlx-lm: rates whose exponential is taken.
bool keeps_dtype(const std::string& name);

// Called before each tensor is written; what it throws ends the writing.
using SaveProgress = std::function<void(std::int64_t bytes_done, std::int64_t bytes_total)>;

// The same for a finished `config`. `params` are evaluated, and let go once their file is written.
void save_folder(const std::filesystem::path& folder, const Json& config, Params params,
                 std::int64_t num_parameters, const std::filesystem::path& source,
                 const SaveProgress& progress = {});

// Its weights: model.safetensors, or model-00001-of-00003.safetensors ... of at most `file_bytes` each (a
// tensor is never cut), and their index, which counts `num_parameters`.
constexpr std::int64_t kWeightFileBytes = std::int64_t{5} << 30;
void save_weights(const std::filesystem::path& folder, Params params, std::int64_t num_parameters,
                  const SaveProgress& progress = {}, std::int64_t file_bytes = kWeightFileBytes);

} // namespace temper
