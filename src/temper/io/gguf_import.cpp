#include "temper/io/gguf_import.h"

#include <charconv>
#include <fstream>
#include <map>
#include <mutex>
#include <set>
#include <system_error>

#include "temper/base/error.h"
#include "temper/base/files.h"
#include "temper/base/private_folder.h"
#include "temper/io/gguf_arch.h"
#include "temper/io/gguf_config.h"
#include "temper/io/gguf_tensors.h"
#include "temper/io/gguf_tokenizer.h"
#include "temper/io/model_folder.h"
#include "temper/models/registry.h"
#include "temper/models/tensors.h"
#include "temper/quant/packed.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

// Folders that go when the process ends.
class FoldersOfFiles {
 public:
  template <class Fill>
  fs::path get(const fs::path& file, const Fill& fill) {
    const std::lock_guard lock(mutex_);
    if (const auto found = made_.find(file); found != made_.end()) {
      return found->second.path();
    }
    PrivateFolder folder;
    fill(folder.path());
    return made_.emplace(file, std::move(folder)).first->second.path();
  }

 private:
  std::mutex mutex_;
  std::map<fs::path, PrivateFolder> made_;
};

// The quantization that mlx-lm would write: the format of most packed layers, and those that differ.
QuantConfig quantization_of(const DecoderSpec& spec, const Params& params) {
  std::map<std::string, QuantFormat> formats;
  std::map<int, int> layers_with_bits;
  for (const auto& layer : matrix_layers(spec)) {
    const auto scales = params.find(layer.name + ".scales");
    if (scales != params.end()) {
      const auto& weight = params.at(layer.name + ".weight");
      const auto format = infer_quant_format(weight, scales->second, true, layer.in_features, layer.name);
      formats.emplace(layer.name, format);
      ++layers_with_bits[format.bits];
    }
  }
  QuantConfig config;
  for (const auto& [name, format] : formats) {
    if (!config.base || layers_with_bits[format.bits] > layers_with_bits[config.base->bits]) {
      config.base = format;
    }
  }
  for (const auto& layer : matrix_layers(spec)) {
    const auto found = formats.find(layer.name);
    if (found != formats.end() && found->second != config.base) {
      config.layers[layer.name] = found->second;
    }
  }
  return config;
}

// The inverse of to_gguf_tensor(), for any part of a packed layer too.
mx::array from_gguf_tensor(const DecoderSpec& spec, const GgufArch& arch, const std::string& name,
                           const mx::array& array) {
  if (is_permuted(spec, arch, name)) {
    return separate_heads(array, spec.head_dim);
  }
  if (spec.norm_plus_one && array.ndim() == 1 && name.ends_with("norm.weight")) {
    return mx::astype(array, mx::float32) - mx::array(1.0F);
  }
  auto out = array;
  if (const auto heads = value_heads(spec, name)) {
    out = group_value_heads(spec, *heads, out);
  }
  if (name.ends_with(".A_log")) {
    return mx::log(-mx::astype(out, mx::float32));
  }
  if (out.ndim() == 2 && (name.ends_with("conv.weight") || name.ends_with("conv1d.weight"))) {
    return mx::expand_dims(out, 2); // [channels, taps, 1]
  }
  return name.ends_with("shared_expert_gate.weight") ? mx::expand_dims(out, 0) : out;
}

// Of a block behind the model's own, which predicts one token more (Qwen3.5's "mtp").
bool is_beyond(const GgufHeader& header, const GgufArch& arch, const std::string& tensor, int num_layers) {
  const auto more = header.integer(std::string(arch.name) + ".nextn_predict_layers").value_or(0);
  int block = -1;
  if (tensor.starts_with("blk.")) {
    std::from_chars(tensor.data() + 4, tensor.data() + tensor.size(), block);
  }
  return block >= num_layers && block < num_layers + more;
}

void check_left_over(const GgufHeader& header, const GgufArch& arch, const std::set<std::string>& used,
                     int num_layers) {
  for (const auto& tensor : header.tensors) {
    const bool expected = used.contains(tensor.name) || tensor.name.starts_with("rope_f");
    if (!expected && !is_beyond(header, arch, tensor.name, num_layers)) {
      throw ModelError(header.path.string() + ": tensor " + tensor.name +
                       " has no place in this model: its architecture is not quite what it says");
    }
  }
}

} // namespace

bool is_gguf(const fs::path& path) {
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) {
    return false;
  }
  char magic[4] = {};
  std::ifstream(path, std::ios::binary).read(magic, sizeof magic);
  return std::string_view(magic, sizeof magic) == "GGUF" || path.extension() == ".gguf";
}

Params import_gguf(const fs::path& file, const DecoderSpec& spec) {
  const auto header = read_gguf_header(file);
  const auto& arch = find_gguf_arch(spec, file.string());
  const auto stored = load_gguf_tensors(header);
  Params params;
  std::set<std::string> used;
  for (const auto& [ours, theirs] : gguf_tensor_names(spec, arch)) {
    const auto weight = stored.find(theirs);
    if (weight == stored.end()) {
      throw ModelError(file.string() + ": tensor " + theirs + " is missing");
    }
    used.insert(theirs);
    params.emplace(ours, from_gguf_tensor(spec, arch, ours, weight->second));
    if (weight->second.dtype() != mx::uint32) {
      continue;
    }
    const auto stem = [](const std::string& name) { return name.substr(0, name.rfind('.')); };
    for (const char* leaf : {".scales", ".biases"}) {
      const auto name = stem(ours) + leaf;
      params.emplace(name, from_gguf_tensor(spec, arch, name, stored.at(stem(theirs) + leaf)));
    }
  }
  check_left_over(header, arch, used, spec.num_layers);
  return params;
}

fs::path gguf_folder(const fs::path& file) {
  static FoldersOfFiles folders;
  return folders.get(fs::absolute(file), [&](const fs::path& folder) {
    const auto header = read_gguf_header(file);
    auto config = gguf_config(header);
    const auto spec = read_spec(config, file.string());
    set_weights(config, quantization_of(spec, import_gguf(file, spec)), std::nullopt);
    for (const auto& [name, content] : gguf_tokenizer_files(header)) {
      make_directories((folder / name).parent_path());
      write_file_atomic(folder / name, content);
    }
    write_json(folder / "config.json", config);
    fs::create_symlink(fs::absolute(file), folder / "model.gguf");
  });
}

} // namespace temper
