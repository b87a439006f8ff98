// Dims: I, O a layer's in and out features, R rank, X experts.
#include <map>
#include <optional>
#include <set>
#include <stdexcept>

#include "temper/base/error.h"
#include "temper/base/log.h"
#include "temper/io/peft.h"
#include "temper/io/safetensors.h"
#include "temper/models/registry.h"
#include "temper/models/tensors.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

const std::string kRoot = "base_model.model.";

// How a tensor's name ends, and what it is: the factors of an embedding are laid out as others are.
enum class Part { a, b, magnitude, whole, base, refused };
const std::vector<std::pair<std::string, Part>> kEndings = {
    {".lora_A.weight", Part::a},
    {".lora_B.weight", Part::b},
    {".lora_embedding_A", Part::a},
    {".lora_embedding_B", Part::b},
    {".lora_magnitude_vector", Part::magnitude},
    {".lora_magnitude_vector.weight", Part::magnitude},
    {".base_layer.weight", Part::base}, // PEFT adds the base's own embedding where that is adapted
};

struct PeftName {
  std::string module; // of a whole tensor: all of its name
  Part part = Part::whole;
};

PeftName parse_name(const std::string& origin, std::string name) {
  if (!name.starts_with(kRoot)) {
    throw ModelError(origin + ": tensor " + name + " does not begin with " + kRoot + ", as PEFT's do");
  }
  name.erase(0, kRoot.size());
  for (const auto& [ending, part] : kEndings) {
    if (name.ends_with(ending)) {
      return {name.substr(0, name.size() - ending.size()), part};
    }
  }
  for (const std::string inner : {".modules_to_save.", ".base_layer."}) {
    if (const auto at = name.find(inner); at != std::string::npos) {
      name.replace(at, inner.size(), ".");
    }
  }
  const bool plain = name.find("lora_") == std::string::npos && name.find("token_adapter") == std::string::npos;
  return {name, plain ? Part::whole : Part::refused};
}

// A PEFT file sorted by what its tensors are, still by the hub's names.
struct Sorted {
  Params factors; // "<module>.lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
  Params scales;  // "<module>.lora_scale": a scalar
  Params whole;   // by their names
  std::set<std::string> unchosen;
};

void add_factor(const PeftConfig& config, const PeftName& name, const mx::array& array,
                const std::string& origin, Sorted& sorted) {
  if (!config.adapts(name.module)) {
    if (!config.ties() || !name.module.ends_with("lm_head")) { // the embedding's own, as PEFT ties them
      sorted.unchosen.insert(name.module);
    }
    return;
  }
  if (name.part == Part::magnitude) {
    if (!config.lora().dora) {
      throw ModelError(origin + ": " + name.module +
                       " has DoRA's lora_magnitude_vector, but adapter_config.json " + "says use_dora false");
    }
    sorted.factors.emplace(name.module + ".lora_magnitude_vector", mx::flatten(array));
    return;
  }
  const auto own = config.of(name.module);
  const int axis = name.part == Part::a ? 0 : 1;
  if (array.ndim() != 2 || array.shape(axis) != own.rank) {
    throw ModelError(origin + ": a factor of " + name.module + " has shape " + shape_text(array.shape()) +
                     ", adapter_config.json gives the layer rank " + std::to_string(own.rank));
  }
  sorted.factors.emplace(name.module + (name.part == Part::a ? ".lora_A.weight" : ".lora_B.weight"), array);
  sorted.scales.insert_or_assign(name.module + ".lora_scale", mx::array(own.scale));
}

Sorted sort_tensors(const PeftConfig& config, const Params& stored, const std::string& origin) {
  Sorted sorted;
  for (const auto& [stored_name, array] : stored) {
    const auto name = parse_name(origin, stored_name);
    if (name.part == Part::refused) {
      throw ModelError(origin + ": tensor " + stored_name + " is none that Temper computes with");
    }
    if (name.part == Part::whole) {
      sorted.whole.emplace(name.module, array);
    } else if (name.part != Part::base) {
      add_factor(config, name, array, origin, sorted);
    }
  }
  if (!sorted.unchosen.empty()) {
    log::warn(origin + ": " + std::to_string(sorted.unchosen.size()) +
              " modules that adapter_config.json does not choose are left out (" + *sorted.unchosen.begin() +
              ")");
  }
  return sorted;
}

// By our names. Factors know nothing of how a family rearranges its weights.
Params renamed(const WeightLayout& layout, const DecoderSpec& spec, const Params& stored,
               const std::string& origin) {
  auto names = layout;
  names.rearrange = nullptr;
  if (const auto others = left_out_weights(names, stored); !others.empty()) {
    log::warn(origin + ": " + std::to_string(others.size()) + " tensors are left out, which are not the " +
              "language model's (" + others.begin()->first + ")");
  }
  return import_weights(names, spec, stored, origin);
}

// Whole weights in our layout. What a part of a checkpoint does not say (whether norms are stored less 1) shows
// where the way back is another.
Params laid_out(const WeightLayout& layout, const DecoderSpec& spec, const Params& whole,
                const std::string& origin) {
  auto params = import_weights(layout, spec, whole, origin);
  if (layout.restore == nullptr) {
    return params;
  }
  try {
    const auto again = import_weights(layout, spec, export_weights(layout, spec, params), origin);
    for (const auto& [name, array] : params) {
      if (!again.contains(name) || !mx::array_equal(again.at(name), array).item<bool>()) {
        throw ModelError(origin + ": tensor " + name +
                         ", trained whole, cannot be told from another layout of " + spec.model_type +
                         "; merge the adapter into its model with PEFT and use that model");
      }
    }
  } catch (const std::out_of_range&) {
    throw ModelError(origin + ": " + params.begin()->first +
                     " and what else was trained whole is only a part " + "of a tensor of " + spec.model_type);
  }
  return params;
}

// A layer's scale. Experts with scales of their own get the first one's: their B carries the rest.
float common_scale(const mx::array& scales, mx::array& b) {
  if (scales.ndim() == 0) {
    return scales.item<float>();
  }
  const float first = mx::take(scales, 0).item<float>();
  b = b * mx::reshape(scales / first, {-1, 1, 1});
  return first;
}

// Gives `adapter` the layer of that name. Linear layers and embeddings turn round; experts are as in PEFT.
void place_layer(const MatrixLayer& layer, const Params& factors, const mx::array& scales, Adapter& adapter,
                 const std::string& origin) {
  const auto part = [&](const std::string& ending) -> std::optional<mx::array> {
    const auto it = factors.find(layer.name + ending);
    return it == factors.end() ? std::nullopt : std::optional(it->second);
  };
  auto a = part(".lora_A.weight");
  auto b = part(".lora_B.weight");
  const auto magnitude = part(".lora_magnitude_vector");
  if (!a || !b) {
    throw ModelError(origin + ": " + layer.name + " has one of the factors lora_A and lora_B only");
  }
  if (magnitude && (layer.num_experts > 0 || layer.kind == LayerKind::embedding)) {
    throw ModelError(
        origin + ": DoRA on " + layer.name + " is not what Temper computes (PEFT's acts on the " +
        "features of an embedding, and on each expert); merge the adapter into its model with PEFT");
  }
  const bool stacked = layer.num_experts > 0;
  const int rank = a->shape(stacked ? 1 : 0);
  const LayerRank own{rank, common_scale(scales, *b)};
  if (own.rank != adapter.lora.rank || own.scale != adapter.lora.scale) {
    adapter.lora.layers[layer.name] = own;
  }
  adapter.params.insert_or_assign(layer.name + ".lora_a", stacked ? *a : mx::transpose(*a));
  adapter.params.insert_or_assign(layer.name + ".lora_b", stacked ? *b : mx::transpose(*b));
  if (magnitude) {
    adapter.params.insert_or_assign(layer.name + ".m", *magnitude);
  }
}

// Where the embedding is the head, what one of them gets is the other's too: PEFT's is so only when it ties
// them.
void check_tied(const PeftConfig& config, const DecoderSpec& spec, Params& factors, Params& whole,
                const std::string& origin) {
  const auto embedding = spec.prefix + "embed_tokens";
  const auto refuse = [&](const std::string& what) {
    throw ModelError(origin + ": " + what + ", but the model's head is its embedding: both or none can be " +
                     "adapted; train with ensure_weight_tying, or untie the model first");
  };
  const bool head = factors.contains(spec.head + ".lora_A.weight");
  const bool embeds = factors.contains(embedding + ".lora_A.weight");
  if ((head || embeds) && !(config.ties() && embeds)) {
    refuse("adapts the " + std::string(head && embeds ? "embedding and the head apart"
                                       : head         ? "head"
                                                      : "embedding"));
  }
  std::erase_if(factors, [&](const auto& entry) { return entry.first.starts_with(spec.head + "."); });
  const auto head_weight = whole.find(spec.head + ".weight");
  const auto weight = whole.find(embedding + ".weight");
  const bool both = head_weight != whole.end() && weight != whole.end();
  const bool same = both && mx::array_equal(head_weight->second, weight->second).item<bool>();
  if (head_weight != whole.end() && !same) {
    refuse("holds a head of its own");
  }
  if (weight != whole.end() && !both && config.saves("embed_tokens") && !config.ties()) {
    refuse("trains the embedding apart");
  }
  whole.erase(spec.head + ".weight");
}

Params read_tensors(const fs::path& file) {
  auto params = load_safetensors(file);
  for (auto& [name, array] : params) {
    array = mx::astype(array, mx::float32);
  }
  return params;
}

} // namespace

fs::path find_peft_file(const fs::path& folder) {
  if (auto file = folder / "adapter_model.safetensors"; fs::exists(file)) {
    return file;
  }
  if (fs::exists(folder / "adapter_model.bin")) {
    throw CheckpointError(
        (folder / "adapter_model.bin").string() +
        ": a pickled adapter can run any code when it is loaded, so Temper does not; load it with "
        "PEFT and save it again, which writes adapter_model.safetensors");
  }
  throw CheckpointError(folder.string() +
                        ": adapter_config.json is PEFT's, but there is no "
                        "adapter_model.safetensors beside it");
}

Adapter load_peft_adapter(const fs::path& file, const Json& json, const DecoderSpec& spec) {
  const PeftConfig config(json, (file.parent_path() / "adapter_config.json").string());
  const auto origin = file.string();
  const auto sorted = sort_tensors(config, read_tensors(file), origin);
  const auto& layout = find_family(spec.model_type, origin).layout;
  auto factors = renamed(layout, spec, sorted.factors, origin);
  const auto scales = import_weights({.prefixes = layout.prefixes,
                                      .renames = layout.renames,
                                      .left_out = layout.left_out,
                                      .expert_part = layout.expert_part,
                                      .stacked_experts = layout.stacked_experts},
                                     spec, sorted.scales, origin);
  Adapter adapter{config.lora().dora ? "dora" : "lora", -1, config.lora(), {}};
  adapter.params = laid_out(layout, spec, sorted.whole, origin);
  if (spec.tied_head) {
    check_tied(config, spec, factors, adapter.params, origin);
  }
  if (factors.empty() && adapter.params.empty()) {
    throw ModelError(origin + ": holds no adapter of this model");
  }
  for (const auto& layer : matrix_layers(spec)) {
    if (const auto scale = scales.find(layer.name + ".lora_scale"); scale != scales.end()) {
      place_layer(layer, factors, scale->second, adapter, origin);
      for (const char* ending : {".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"}) {
        factors.erase(layer.name + ending);
      }
    }
  }
  if (!factors.empty()) {
    throw ModelError(origin + ": tensor " + factors.begin()->first +
                     " belongs to no layer of this model that can " +
                     "be adapted; was the adapter trained on another model?");
  }
  mx::eval(values(adapter.params));
  return adapter;
}

} // namespace temper
