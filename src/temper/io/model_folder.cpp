#include "temper/io/model_folder.h"

#include <algorithm>
#include <set>

#include "temper/base/error.h"
#include "temper/base/files.h"
#include "temper/io/safetensors.h"
#include "temper/models/decoder.h"
#include "temper/models/registry.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

// Reads like "a, b, c and 7 more".
std::string list_names(const std::vector<std::string>& names) {
  constexpr std::size_t kShown = 5;
  std::string text;
  for (std::size_t i = 0; i < std::min(names.size(), kShown); ++i) {
    text += (i > 0 ? ", " : "") + names[i];
  }
  return names.size() > kShown ? text + " and " + std::to_string(names.size() - kShown) + " more" : text;
}

Json read_model_json(const fs::path& path) {
  try {
    return read_json(path);
  } catch (const ConfigError& error) {
    throw ModelError(error.what());
  }
}

// The files that hold the weights: those that the index names, or every model*.safetensors.
std::vector<fs::path> weight_files(const fs::path& folder) {
  std::set<fs::path> files;
  const auto index = folder / "model.safetensors.index.json";
  if (fs::exists(index)) {
    const auto json = read_model_json(index);
    const auto map = json.find("weight_map");
    if (map == json.end() || !map->is_object()) {
      throw ModelError(index.string() + ": weight_map is missing");
    }
    for (const auto& [tensor, file] : map->items()) {
      const auto path = folder / (file.is_string() ? file.get<std::string>() : dump(file));
      if (!fs::exists(path)) {
        throw ModelError(index.string() + ": names " + path.filename().string() +
                         ", which is not in the folder; fetch the model again");
      }
      files.insert(path);
    }
  } else {
    for (const auto& entry : fs::directory_iterator(folder)) {
      if (entry.path().extension() == ".safetensors" && entry.path().filename().string().starts_with("model")) {
        files.insert(entry.path());
      }
    }
  }
  if (files.empty()) {
    throw ModelError(folder.string() + ": no model*.safetensors file; the folder holds no weights");
  }
  return {files.begin(), files.end()};
}

// Every parameter of the checkpoint, lazily, under our names.
Params read_tensors(const fs::path& folder, const Family& family, const DecoderSpec& spec) {
  Params stored;
  for (const auto& file : weight_files(folder)) {
    for (const auto& [name, array] : load_safetensors(file)) {
      if (!stored.emplace(name, array).second) {
        throw ModelError(file.string() + ": tensor " + name + " is there twice");
      }
    }
  }
  auto params = import_weights(family.layout, spec, stored, folder.string());
  if (spec.tied_head) {
    params.erase(spec.head + ".weight");
  }
  return params;
}

const char* const kCompanionFiles[] = {
    "tokenizer.json",    "tokenizer.model",     "tokenizer_config.json",  "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "generation_config.json", "chat_template.json",
    "vocab.json",        "merges.txt",
};

} // namespace

// transformers stores the dtype as torch_dtype, since version 5 as dtype.
mx::Dtype stored_dtype(const Json& config) {
  if (config.contains("text_config") && !config.contains("dtype") && !config.contains("torch_dtype")) {
    return stored_dtype(config["text_config"]);
  }
  for (const char* key : {"dtype", "torch_dtype"}) {
    const auto it = config.find(key);
    if (it != config.end() && it->is_string()) {
      const auto name = it->get<std::string>();
      if (name == "float16" || name == "bfloat16" || name == "float32") {
        return dtype_from_name(name);
      }
    }
  }
  return mx::float32;
}

DecoderSpec load_spec(const fs::path& folder, Json* config) {
  if (!fs::is_directory(folder)) {
    throw ModelError(folder.string() + (fs::exists(folder) ? ": this is a file; name the model's folder"
                                                           : ": there is no such model folder; download the "
                                                             "model and name its folder"));
  }
  const auto path = folder / "config.json";
  if (!fs::exists(path)) {
    throw ModelError(folder.string() + ": no config.json; this is not a Hugging Face model folder");
  }
  Json json = read_model_json(path);
  auto spec = read_spec(json, path.string());
  if (config != nullptr) {
    *config = std::move(json);
  }
  return spec;
}

mx::Dtype resolve_dtype(const std::string& dtype, const Json& config) {
  if (dtype != "auto") {
    return dtype_from_name(dtype);
  }
  return mx::default_device() == mx::Device::cpu ? mx::float32 : stored_dtype(config);
}

void check_tensors(const DecoderSpec& spec, const Params& params, const std::string& origin) {
  std::vector<std::string> missing;
  std::vector<std::string> misshaped;
  std::set<std::string> expected;
  for (const auto& [name, shape] : expected_tensors(spec)) {
    expected.insert(name);
    const auto it = params.find(name);
    if (it == params.end()) {
      missing.push_back(name);
    } else if (it->second.shape() != shape) {
      misshaped.push_back(name + " has shape " + shape_text(it->second.shape()) + ", config.json asks for " +
                          shape_text(shape));
    }
  }
  std::vector<std::string> extra;
  for (const auto& [name, array] : params) {
    if (!expected.contains(name)) {
      extra.push_back(name);
    }
  }
  if (!missing.empty()) {
    throw ModelError(origin + ": missing tensors: " + list_names(missing) +
                     "; is the download complete, and config.json this model's?");
  }
  if (!misshaped.empty()) {
    throw ModelError(origin + ": " + list_names(misshaped));
  }
  if (!extra.empty()) {
    throw ModelError(origin + ": tensors that config.json has no place for: " + list_names(extra));
  }
}

Model load_model(const fs::path& folder, const std::string& dtype) {
  Model model;
  model.path = folder;
  model.spec = load_spec(folder, &model.config);
  model.dtype = resolve_dtype(dtype, model.config);
  model.params = read_tensors(folder, find_family(model.spec.model_type, folder.string()), model.spec);
  check_tensors(model.spec, model.params, folder.string());
  for (auto& [name, array] : model.params) {
    // One at a time: the stored copy goes before the next one is read.
    array = mx::astype(array, model.dtype);
    mx::eval(array);
  }
  return model;
}

void save_model(const fs::path& folder, const Model& source, const Params& params,
                std::optional<mx::Dtype> dtype) {
  make_directories(folder);
  Params stored;
  for (const auto& [name, array] : params) {
    stored.emplace(name, dtype ? mx::astype(array, *dtype) : array);
  }
  save_safetensors(folder / "model.safetensors", stored);
  auto config = source.config;
  const auto name = dtype_name(dtype.value_or(params.begin()->second.dtype()));
  config[config.contains("torch_dtype") ? "torch_dtype" : "dtype"] = name;
  write_json(folder / "config.json", config);
  for (const char* file : kCompanionFiles) {
    if (fs::exists(source.path / file) && !fs::equivalent(source.path, folder)) {
      write_file_atomic(folder / file, read_file(source.path / file));
    }
  }
}

} // namespace temper
