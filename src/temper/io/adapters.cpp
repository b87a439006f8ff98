#include "temper/io/adapters.h"

#include <algorithm>

#include "temper/base/error.h"
#include "temper/base/files.h"
#include "temper/io/peft.h"
#include "temper/io/safetensors.h"
#include "temper/models/adapter_params.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

Json read_adapter_config(const fs::path& folder) {
  const auto path = folder / "adapter_config.json";
  if (!fs::exists(path)) {
    throw CheckpointError(folder.string() + ": no adapter_config.json; this is not an adapter folder");
  }
  Json config;
  try {
    config = read_json(path);
  } catch (const ConfigError& error) {
    throw CheckpointError(error.what());
  }
  if (PeftConfig::describes(config)) {
    return config;
  }
  if (!config.is_object() || !config.value("fine_tune_type", Json("lora")).is_string() ||
      !config.value("num_layers", Json(-1)).is_number_integer()) {
    throw CheckpointError(path.string() + ": needs fine_tune_type as text and num_layers as a whole number");
  }
  return config;
}

LoraConfig read_lora(const Json& config, const std::string& origin) {
  try {
    const auto& parameters = config.at("lora_parameters");
    LoraConfig lora;
    lora.rank = parameters.at("rank").get<int>();
    lora.scale = parameters.at("scale").get<float>();
    lora.dropout = parameters.value("dropout", 0.0F);
    const auto ranks = parameters.value("ranks", Json::object());
    for (const auto& [layer, rank] : ranks.items()) {
      lora.layers[layer] = {rank.get<int>(), lora.scale};
    }
    return lora;
  } catch (const Json::exception&) {
    throw CheckpointError(origin + ": lora_parameters needs rank and scale as numbers");
  }
}

// Each layer's B for the scales of `to`, which is for those of `from`.
void rescale(Params& params, const LoraConfig& from, const LoraConfig& to) {
  for (auto& [name, array] : params) {
    if (!name.ends_with(".lora_b")) {
      continue;
    }
    const auto layer = name.substr(0, name.rfind('.'));
    const float theirs = from.of(layer).scale;
    const float ours = to.of(layer).scale;
    if (theirs != ours) {
      array = array * (theirs / ours);
    }
  }
}

// With the scale that mlx-lm's file has room for on every layer.
LoraConfig with_common_scale(LoraConfig lora) {
  lora.layers.clear();
  return lora;
}

Params read_params(const fs::path& file) {
  if (!fs::exists(file)) {
    throw CheckpointError(file.string() + ": there is no such adapter file");
  }
  auto params = load_safetensors(file);
  for (auto& [name, array] : params) {
    array = mx::astype(array, mx::float32);
  }
  mx::eval(values(params));
  return params;
}

[[noreturn]] void misfit(const fs::path& file, const std::string& name, const mx::Shape& found,
                         const mx::Shape& wanted) {
  throw ModelError(file.string() + ": tensor " + name + " has shape " + shape_text(found) +
                   ", this model and rank need " + shape_text(wanted) +
                   "; was the adapter trained on another model?");
}

// Every tensor that an adapter of this model may hold, with its shape.
std::map<std::string, mx::Shape> allowed_tensors(const DecoderSpec& spec, const Adapter& adapter) {
  std::map<std::string, mx::Shape> allowed;
  if (adapter.fine_tune_type != "full") {
    allowed = adapter_shapes(adapter.lora, matrix_layers(spec));
  }
  for (const auto& [name, shape] : expected_tensors(spec)) {
    allowed[name] = shape;
  }
  return allowed;
}

void check_tensors(const fs::path& file, const Adapter& adapter, const DecoderSpec& spec) {
  const auto allowed = allowed_tensors(spec, adapter);
  for (const auto& [name, array] : adapter.params) {
    const auto it = allowed.find(name);
    if (it == allowed.end()) {
      const bool magnitude = name.ends_with(".m") && adapter.fine_tune_type == "lora";
      throw ModelError(file.string() + ": " +
                       (magnitude
                            ? "tensor " + name + " is DoRA's, but adapter_config.json says fine_tune_type lora"
                        : is_adapter_tensor(name)
                            ? "tensor " + name + " belongs to no layer of this model that can be adapted"
                            : "this model has no tensor " + name));
    }
    if (array.shape() != it->second) {
      misfit(file, name, array.shape(), it->second);
    }
  }
}

// All but the tensors of an adapter in mlx-lm's format.
Adapter describe_adapter(const Json& config, const std::string& origin) {
  Adapter adapter;
  adapter.fine_tune_type = config.value("fine_tune_type", "lora");
  adapter.num_layers = config.value("num_layers", -1);
  const auto& type = adapter.fine_tune_type;
  if (type != "lora" && type != "dora" && type != "full") {
    throw CheckpointError(origin + ": fine_tune_type " + type + " is not supported; use lora, dora or full");
  }
  if (type != "full") {
    adapter.lora = read_lora(config, origin);
    adapter.lora.dora = type == "dora";
  }
  return adapter;
}

// A layer's parameters come together.
void check_complete(const fs::path& file, const Adapter& adapter) {
  for (const auto& [name, array] : adapter.params) {
    if (!is_adapter_tensor(name)) {
      continue;
    }
    const auto layer = name.substr(0, name.rfind('.'));
    for (const auto* part : {".lora_a", ".lora_b", ".m"}) {
      const bool needed = adapter.lora.dora || std::string(part) != ".m";
      if (needed && !adapter.params.contains(layer + part)) {
        throw ModelError(file.string() + ": tensor " + name + " is there without " + layer + part);
      }
    }
  }
}

// Exactly those of `expected`.
void check_expected(const fs::path& file, const Params& params, const Params& expected) {
  for (const auto& [name, array] : expected) {
    const auto it = params.find(name);
    if (it == params.end()) {
      throw ModelError(file.string() + ": tensor " + name + " is missing; do rank, keys and num_layers match?");
    }
    if (it->second.shape() != array.shape()) {
      misfit(file, name, it->second.shape(), array.shape());
    }
  }
  for (const auto& [name, array] : params) {
    if (!expected.contains(name)) {
      throw ModelError(file.string() + ": tensor " + name +
                       " is not trained by this run; do keys and num_layers match?");
    }
  }
}

} // namespace

Adapter load_adapter(const fs::path& path, const DecoderSpec& spec) {
  const bool is_folder = fs::is_directory(path);
  if (!is_folder && !fs::exists(path)) {
    throw CheckpointError(path.string() + ": there is no such adapter");
  }
  const auto folder = is_folder ? path : path.parent_path();
  const auto config = read_adapter_config(folder);
  if (PeftConfig::describes(config)) {
    const auto file = is_folder ? find_peft_file(path) : path;
    auto adapter = load_peft_adapter(file, config, spec);
    check_tensors(file, adapter, spec);
    check_complete(file, adapter);
    return adapter;
  }
  const auto file = is_folder ? path / "adapters.safetensors" : path;
  auto adapter = describe_adapter(config, (folder / "adapter_config.json").string());
  adapter.params = read_params(file);
  check_tensors(file, adapter, spec);
  check_complete(file, adapter);
  return adapter;
}

void make_ready(Adapter& adapter, const Model& model) {
  adapter.params = forward_params(adapter.params, model.dtype);
  mx::eval(values(adapter.params));
  adapter.params.merge(fixed_dora_scales(model.spec, model.params, adapter.lora, adapter.params, model.dtype));
}

Params load_adapter_params(const fs::path& file, const Params& expected, const LoraConfig& lora) {
  auto params = read_params(file);
  check_expected(file, params, expected);
  rescale(params, with_common_scale(lora), lora);
  return params;
}

Params load_adapter_start(const fs::path& path, const DecoderSpec& spec, const Params& expected,
                          const LoraConfig& lora) {
  const bool is_folder = fs::is_directory(path);
  const auto config = (is_folder ? path : path.parent_path()) / "adapter_config.json";
  if (!fs::exists(config) || !PeftConfig::describes(read_adapter_config(config.parent_path()))) {
    return load_adapter_params(is_folder ? path / "adapters.safetensors" : path, expected, lora);
  }
  auto adapter = load_adapter(path, spec);
  check_expected(path, adapter.params, expected);
  rescale(adapter.params, adapter.lora, lora);
  mx::eval(values(adapter.params));
  return adapter.params;
}

void save_adapter_params(const fs::path& folder, const std::string& file, const Params& params,
                         const LoraConfig& lora) {
  auto written = params;
  rescale(written, lora, with_common_scale(lora));
  save_safetensors(folder / file, written);
}

void save_adapter_config(const fs::path& folder, const std::string& fine_tune_type, int num_layers,
                         const LoraConfig& lora, const std::vector<std::string>& keys, const Json& details) {
  Json config{{"fine_tune_type", fine_tune_type}, {"num_layers", num_layers}};
  if (fine_tune_type != "full") {
    config["lora_parameters"] = {{"rank", lora.rank}, {"scale", lora.scale}, {"dropout", lora.dropout}};
    // Always written: without keys mlx-lm would also wrap what Temper leaves alone.
    config["lora_parameters"]["keys"] = keys;
    for (const auto& [layer, own] : lora.layers) {
      if (own.rank != lora.rank) {
        config["lora_parameters"]["ranks"][layer] = own.rank;
      }
    }
  }
  for (const auto& [key, value] : details.items()) {
    if (!config.contains(key)) {
      config[key] = value;
    }
  }
  write_json(folder / "adapter_config.json", config);
}

} // namespace temper
