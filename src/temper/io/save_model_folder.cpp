#include <cstdio>
#include <vector>

#include "temper/base/files.h"
#include "temper/io/model_folder.h"
#include "temper/io/safetensors.h"
#include "temper/models/tensors.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

const char* const kCompanionFiles[] = {
    "tokenizer.json",    "tokenizer.model",     "tokenizer_config.json",  "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "generation_config.json", "chat_template.json",
    "vocab.json",        "merges.txt",
};

// The names of the tensors of each file, in order.
std::vector<std::vector<std::string>> plan_files(const Params& params, std::int64_t file_bytes) {
  std::vector<std::vector<std::string>> files;
  std::int64_t used = 0;
  for (const auto& [name, array] : params) {
    const auto bytes = static_cast<std::int64_t>(array.nbytes());
    if (files.empty() || used + bytes > file_bytes) {
      files.emplace_back();
      used = 0;
    }
    files.back().push_back(name);
    used += bytes;
  }
  return files;
}

std::string file_name(std::size_t index, std::size_t count) {
  if (count == 1) {
    return "model.safetensors";
  }
  char name[64];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", index + 1, count);
  return name;
}

} // namespace

void save_weights(const fs::path& folder, Params params, std::int64_t num_parameters,
                  const SaveProgress& progress, std::int64_t file_bytes) {
  const auto files = plan_files(params, file_bytes);
  const auto total_bytes = num_bytes(params);
  auto weight_map = Json::object();
  std::int64_t done = 0;
  for (std::size_t i = 0; i < files.size(); ++i) {
    const auto name = file_name(i, files.size());
    Params part;
    for (const auto& tensor : files[i]) {
      if (progress) {
        progress(done, total_bytes);
      }
      const auto moved = part.insert(params.extract(tensor)).position;
      mx::eval(moved->second);
      done += static_cast<std::int64_t>(moved->second.nbytes());
      weight_map[tensor] = name;
    }
    save_safetensors(folder / name, part);
  }
  write_json(folder / "model.safetensors.index.json",
             {{"metadata", {{"total_size", total_bytes}, {"total_parameters", num_parameters}}},
              {"weight_map", weight_map}});
}

// transformers knows the dtype by either name, and in a model of several parts from each.
void set_weights(Json& config, const QuantConfig& quantization, std::optional<mx::Dtype> dtype) {
  for (auto* part : {&config, config.contains("text_config") ? &config["text_config"] : &config}) {
    for (const char* key : {"quantization", "quantization_config"}) {
      part->erase(key);
    }
    for (const char* key : {"torch_dtype", "dtype"}) {
      if (dtype && part->contains(key)) {
        (*part)[key] = dtype_name(*dtype);
      }
    }
  }
  if (dtype && !stated_dtype(config)) {
    config["torch_dtype"] = dtype_name(*dtype);
  }
  if (quantization.base) {
    config["quantization"] = to_json(quantization);
    config["quantization_config"] = config["quantization"];
  }
}

bool keeps_dtype(const std::string& name) {
  return name.ends_with(".A_log");
}

void save_folder(const fs::path& folder, const Json& config, Params params, std::int64_t num_parameters,
                 const fs::path& source, const SaveProgress& progress) {
  make_directories(folder);
  save_weights(folder, std::move(params), num_parameters, progress);
  write_json(folder / "config.json", config);
  for (const char* file : kCompanionFiles) {
    if (fs::exists(source / file) && !fs::equivalent(source, folder)) {
      write_file_atomic(folder / file, read_file(source / file));
    }
  }
}

void save_model(const fs::path& folder, const Model& source, const Params& params,
                std::optional<mx::Dtype> dtype) {
  Params stored;
  for (const auto& [name, array] : params) {
    const bool cast = dtype && !is_packed_part(source, name);
    stored.emplace(name, cast ? mx::astype(array, *dtype) : array);
  }
  auto config = source.config;
  config[config.contains("torch_dtype") ? "torch_dtype" : "dtype"] = dtype_name(dtype.value_or(source.dtype));
  if (source.packed.empty()) {
    config.erase("quantization");
    config.erase("quantization_config");
  }
  save_folder(folder, config, std::move(stored), num_parameters(source.spec), source.path);
}

} // namespace temper
