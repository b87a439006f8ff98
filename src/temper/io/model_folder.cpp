#include "temper/io/model_folder.h"

#include <algorithm>
#include <set>

#include "temper/base/error.h"
#include "temper/base/files.h"
#include "temper/base/log.h"
#include "temper/io/gguf_import.h"
#include "temper/io/pack_model.h"
#include "temper/io/safetensors.h"
#include "temper/models/decoder.h"
#include "temper/models/registry.h"
#include "temper/quant/quant_config.h"

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

// The GGUF file that the folder was made of (gguf_folder()); empty: it was not. A hub's snapshot may hold a
// link of that name beside its safetensors: a relative one.
fs::path gguf_file(const fs::path& folder) {
  std::error_code ignored;
  const auto link = folder / "model.gguf";
  const auto target = fs::is_symlink(link, ignored) ? fs::read_symlink(link) : fs::path();
  return target.is_absolute() ? target : fs::path();
}

// Every tensor of the checkpoint, lazily, as it is stored.
Params stored_tensors(const fs::path& folder) {
  Params stored;
  for (const auto& file : weight_files(folder)) {
    for (const auto& [name, array] : load_safetensors(file)) {
      if (!stored.emplace(name, array).second) {
        throw ModelError(file.string() + ": tensor " + name + " is there twice");
      }
    }
  }
  return stored;
}

// Every parameter of the checkpoint, lazily, under our names.
Params read_tensors(const fs::path& folder, const Family& family, const DecoderSpec& spec) {
  if (const auto file = gguf_file(folder); !file.empty()) {
    return import_gguf(file, spec);
  }
  auto params = import_weights(family.layout, spec, stored_tensors(folder), folder.string());
  if (spec.tied_head) {
    for (const char* leaf : {".weight", ".scales", ".biases"}) {
      params.erase(spec.head + leaf);
    }
  }
  return params;
}

// The shape of every tensor that `spec` asks for, in the layout that `params` has it in; the packed layers'
// formats join `packed`.
std::map<std::string, mx::Shape> expected_shapes(const DecoderSpec& spec, const Params& params,
                                                 std::map<std::string, QuantFormat>& packed) {
  std::map<std::string, mx::Shape> expected;
  for (const auto& [name, shape] : expected_tensors(spec)) {
    expected.emplace(name, shape);
  }
  const ParamView view(params);
  for (const auto& layer : matrix_layers(spec)) {
    const auto* weight = view.find(layer.name + ".weight");
    if (weight != nullptr && weight->dtype() == mx::uint32 && view.find(layer.name + ".scales") == nullptr) {
      expected.emplace(layer.name + ".scales", mx::Shape{});
    }
    const auto found = weight != nullptr ? packed_weight(view, layer.name, layer.in_features) : std::nullopt;
    if (!found) {
      continue;
    }
    const auto dense = layer.weight_shape();
    const auto scales = scales_shape(found->format, dense, layer.name);
    expected[layer.name + ".weight"] = packed_shape(found->format, dense, layer.name);
    expected.emplace(layer.name + ".scales", scales);
    if (found->biases) {
      expected.emplace(layer.name + ".biases", scales);
    }
    packed.emplace(layer.name, found->format);
  }
  return expected;
}

// What config.json says against what the tensors are.
void check_quantization(const QuantConfig& config, const Model& model) {
  const auto fail = [&](const std::string& what) {
    throw ModelError((model.path / "config.json").string() + ": quantization: " + what);
  };
  if (!config.base && !model.packed.empty()) {
    const auto& [layer, format] = *model.packed.begin();
    fail("it is missing, but the weights are packed (" + layer + ": " + describe(format) +
         "); take the config.json that belongs to them");
  }
  if (config.base && model.packed.empty()) {
    fail("it says " + describe(*config.base) +
         ", but no tensor is packed; take the config.json that belongs to "
         "the weights");
  }
  std::vector<std::string> differing;
  std::size_t unlisted = 0;
  for (const auto& layer : matrix_layers(model.spec)) {
    const auto found = model.packed.find(layer.name);
    const auto format = found != model.packed.end() ? std::optional(found->second) : std::nullopt;
    const auto listed = config.layers.find(layer.name);
    if (listed != config.layers.end() && listed->second != format) {
      fail(layer.name + " is said to be " + (listed->second ? describe(*listed->second) : "unpacked") +
           ", but is " + (format ? describe(*format) : "unpacked"));
    }
    if (listed == config.layers.end() && format) {
      ++unlisted;
      if (format != config.base) {
        differing.push_back(layer.name + " (" + describe(*format) + ")");
      }
    }
  }
  if (!differing.empty() && differing.size() == unlisted) {
    fail("it says " + describe(*config.base) + ", but the tensors are otherwise: " + list_names(differing));
  }
  if (!differing.empty()) {
    log::warn(model.path.string() +
              ": packed otherwise than config.json says, which goes by the tensors: " + list_names(differing));
  }
}

} // namespace

// transformers stores the dtype as torch_dtype, since version 5 as dtype.
std::optional<mx::Dtype> stated_dtype(const Json& config) {
  if (config.contains("text_config") && !config.contains("dtype") && !config.contains("torch_dtype")) {
    return stated_dtype(config["text_config"]);
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
  return std::nullopt;
}

mx::Dtype stored_dtype(const Json& config) {
  return stated_dtype(config).value_or(mx::float32);
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

std::map<std::string, QuantFormat> check_tensors(const DecoderSpec& spec, const Params& params,
                                                 const std::string& origin) {
  std::map<std::string, QuantFormat> packed;
  const auto expected = expected_shapes(spec, params, packed);
  std::vector<std::string> missing;
  std::vector<std::string> misshaped;
  for (const auto& [name, shape] : expected) {
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
  return packed;
}

bool is_packed_part(const Model& model, const std::string& name) {
  const auto dot = name.rfind('.');
  const auto leaf = name.substr(dot + 1);
  return (leaf == "weight" || leaf == "scales" || leaf == "biases") &&
         model.packed.contains(name.substr(0, dot));
}

Model open_model(const fs::path& folder) {
  Model model;
  model.path = folder;
  model.spec = load_spec(folder, &model.config);
  model.dtype = stored_dtype(model.config);
  model.params = read_tensors(folder, find_family(model.spec.model_type, folder.string()), model.spec);
  model.packed = check_tensors(model.spec, model.params, folder.string());
  check_quantization(read_quant_config(model.config, (folder / "config.json").string()), model);
  for (auto& [name, array] : model.params) {
    // Families' layouts are views of what is stored; MLX wants packed weights in a piece.
    array = mx::contiguous(array);
  }
  return model;
}

Params other_tensors(const fs::path& folder) {
  if (!gguf_file(folder).empty()) {
    return {};
  }
  const auto& family = find_family(load_spec(folder).model_type, folder.string());
  return left_out_weights(family.layout, stored_tensors(folder));
}

Model load_model(const fs::path& folder, const std::string& dtype, PackedWeights packed) {
  auto model = open_model(folder);
  model.dtype = resolve_dtype(dtype, model.config);
  if (packed == PackedWeights::unpack ||
      (packed == PackedWeights::by_device && mx::default_device() == mx::Device::cpu)) {
    unpack_model(model, model.dtype);
  }
  for (auto& [name, array] : model.params) {
    // One at a time: the stored copy goes before the next one is read.
    if (!is_packed_part(model, name)) {
      array = mx::astype(array, model.dtype);
    }
    mx::eval(array);
  }
  return model;
}

} // namespace temper
