// Dims: I, O a layer's in and out features, R rank, X experts.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "temper/base/error.h"
#include "temper/io/peft.h"
#include "temper/io/safetensors.h"
#include "temper/models/adapter_params.h"
#include "temper/models/registry.h"
#include "temper/models/tensors.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

const std::string kRoot = "base_model.model.";
const std::string kFactorA = ".lora_A.weight";

std::string last_part(const std::string& module) {
  return module.substr(module.rfind('.') + 1);
}

// What PEFT calls the modules: as transformers has them today, whatever their checkpoints look like.
WeightLayout module_names(const DecoderSpec& spec) {
  auto layout = find_family(spec.model_type, "adapter").layout;
  layout.keep_prefixes = false;
  return layout;
}

Params renamed(WeightLayout layout, const DecoderSpec& spec, Params params) {
  layout.restore = nullptr;
  return export_weights(layout, spec, std::move(params));
}

// The module that our `layer` is, or (experts) the modules.
std::vector<std::string> modules_of(const WeightLayout& layout, const DecoderSpec& spec,
                                    const MatrixLayer& layer) {
  const bool stacked = layer.num_experts > 0;
  const Params named{{layer.name + kFactorA, mx::zeros({stacked ? layer.num_experts : 1, 1})}};
  std::vector<std::string> modules;
  for (const auto& [name, array] : renamed(layout, spec, named)) {
    modules.push_back(name.substr(0, name.size() - kFactorA.size()));
  }
  return modules;
}

[[noreturn]] void refuse(const std::string& layer, const std::string& what) {
  throw ModelError(layer + ": " + what + "; fuse the adapter into its model (temper fuse) and use that model");
}

void check_layer(const WeightLayout& layout, const MatrixLayer& layer, const Adapter& adapter) {
  if (layer.kind == LayerKind::embedding && adapter.lora.dora) {
    refuse(layer.name, "PEFT's DoRA on an embedding scales its features, not its tokens");
  }
  if (layer.num_experts > 0 && layout.expert_part.empty()) {
    refuse(layer.name, "the hub keeps these experts as one tensor, which has no module that PEFT could adapt");
  }
}

// [..., R, ...] with zeros up to `rank`, which compute nothing.
mx::array widened(const mx::array& factor, int axis, int rank) {
  auto shape = factor.shape();
  shape[static_cast<std::size_t>(axis)] = rank - shape[static_cast<std::size_t>(axis)];
  return shape[static_cast<std::size_t>(axis)] == 0 ? factor
                                                    : mx::concatenate({factor, mx::zeros(shape)}, axis);
}

// Factors in PEFT's orientation and still by our names, with each layer's rank and scale.
struct Factors {
  Params params;
  std::map<std::string, LayerRank> ranks;

  void add(const MatrixLayer& layer, const LayerRank& own, const mx::array& a_RI, const mx::array& b_OR) {
    params.insert_or_assign(layer.name + kFactorA, a_RI);
    params.insert_or_assign(layer.name + ".lora_B.weight", b_OR);
    ranks[layer.name] = own;
  }
};

// Today's transformers keeps the experts' gate and up as one parameter, for which PEFT joins their adapters: of
// one rank in all layers, and none without the other.
void complete_experts(const DecoderSpec& spec, Factors& factors) {
  const auto layers = matrix_layers(spec);
  LayerRank most{0, 1.0F};
  std::set<std::string> blocks;
  for (const auto& layer : layers) {
    if (const auto own = factors.ranks.find(layer.name); layer.num_experts > 0 && own != factors.ranks.end()) {
      most = own->second.rank > most.rank ? own->second : most;
      if (!layer.name.ends_with("." + spec.names.down)) {
        blocks.insert(layer.name.substr(0, layer.name.rfind('.')));
      }
    }
  }
  for (const auto& layer : layers) {
    if (layer.num_experts == 0) {
      continue;
    }
    const auto own = factors.ranks.find(layer.name);
    if (own != factors.ranks.end()) {
      const auto& a = factors.params.at(layer.name + kFactorA);
      const auto& b = factors.params.at(layer.name + ".lora_B.weight");
      factors.add(layer, most, widened(a, 1, most.rank),
                  widened(b, 2, most.rank) * (own->second.scale / most.scale));
    } else if (blocks.contains(layer.name.substr(0, layer.name.rfind('.'))) &&
               !layer.name.ends_with("." + spec.names.down)) {
      factors.add(layer, most, mx::zeros({layer.num_experts, most.rank, layer.in_features}),
                  mx::zeros({layer.num_experts, layer.out_features, most.rank}));
    }
  }
}

Factors collect_factors(const WeightLayout& layout, const DecoderSpec& spec, const Adapter& adapter) {
  Factors factors;
  for (const auto& layer : matrix_layers(spec)) {
    const auto a = adapter.params.find(layer.name + ".lora_a");
    if (a == adapter.params.end()) {
      continue;
    }
    check_layer(layout, layer, adapter);
    const auto& b = adapter.params.at(layer.name + ".lora_b");
    const auto own = adapter.lora.of(layer.name);
    const bool stacked = layer.num_experts > 0;
    factors.add(layer, {own.rank, own.scale}, stacked ? a->second : mx::transpose(a->second),
                stacked ? b : mx::transpose(b));
    if (const auto m = adapter.params.find(layer.name + ".m"); m != adapter.params.end()) {
      factors.params.insert_or_assign(layer.name + ".lora_magnitude_vector", m->second);
    }
    if (layer.kind == LayerKind::embedding && spec.tied_head) {
      // Ties: the head's adapter is the embedding's, the other way round.
      const MatrixLayer head{spec.head};
      factors.add(head, {own.rank, own.scale}, b, a->second);
    }
  }
  complete_experts(spec, factors);
  return factors;
}

// ---- adapter_config.json

Json number(double value) {
  const double whole = std::round(value);
  return std::abs(value - whole) < 1e-5 * std::abs(value) ? Json(static_cast<std::int64_t>(whole))
                                                          : Json(value);
}

// A pattern for each value that is not `common`: the last part of the modules' names where all that share it
// agree, or else the whole name.
Json patterns(const std::map<std::string, Json>& values, const Json& common) {
  std::map<std::string, std::set<Json>> by_leaf;
  for (const auto& [module, value] : values) {
    by_leaf[last_part(module)].insert(value);
  }
  Json found = Json::object();
  for (const auto& [module, value] : values) {
    const auto leaf = last_part(module);
    if (value != common || by_leaf[leaf].size() > 1) {
      found[by_leaf[leaf].size() == 1 ? leaf : module] = value;
    }
  }
  return found;
}

// The rank (or alpha) that most layers have.
Json most_common(const std::map<std::string, Json>& values) {
  std::map<Json, int> counts;
  for (const auto& [module, value] : values) {
    ++counts[value];
  }
  return std::max_element(counts.begin(), counts.end(),
                          [](const auto& a, const auto& b) { return a.second < b.second; })
      ->first;
}

// The modules' last parts where that chooses no other module, or else whole names.
Json targets(const WeightLayout& layout, const DecoderSpec& spec, const std::set<std::string>& adapted) {
  std::set<std::string> all = adapted;
  for (const auto& layer : matrix_layers(spec)) {
    for (auto& module : modules_of(layout, spec, layer)) {
      all.insert(std::move(module));
    }
  }
  // A tower beside the language model has modules of the same names.
  const bool alone = spec.prefix == "model.";
  std::set<std::string> split;
  for (const auto& module : all) {
    if (!alone || !adapted.contains(module)) {
      split.insert(last_part(module));
    }
  }
  std::set<std::string> chosen;
  for (const auto& module : adapted) {
    const bool expert = !layout.expert_part.empty() && module.find(layout.expert_part) != std::string::npos;
    chosen.insert(expert || !split.contains(last_part(module)) ? last_part(module) : module);
  }
  return chosen;
}

struct Ranks {
  std::map<std::string, Json> rank;
  std::map<std::string, Json> alpha;
};

Ranks module_ranks(const WeightLayout& layout, const DecoderSpec& spec, const Factors& factors) {
  Ranks ranks;
  auto layers = matrix_layers(spec);
  layers.push_back({spec.head});
  for (const auto& layer : layers) {
    if (const auto own = factors.ranks.find(layer.name); own != factors.ranks.end()) {
      for (const auto& module : modules_of(layout, spec, layer)) {
        ranks.rank[module] = own->second.rank;
        ranks.alpha[module] = number(static_cast<double>(own->second.scale) * own->second.rank);
      }
    }
  }
  return ranks;
}

void add_ranks(const WeightLayout& layout, const DecoderSpec& spec, const Adapter& adapter,
               const Factors& factors, Json& config) {
  const auto ranks = module_ranks(layout, spec, factors);
  std::set<std::string> adapted;
  const std::string* expert = nullptr;
  for (const auto& [module, rank] : ranks.rank) {
    adapted.insert(module);
    if (!layout.expert_part.empty() && module.find(layout.expert_part) != std::string::npos) {
      expert = &module; // PEFT reads no pattern for experts
    }
  }
  config["r"] = adapted.empty()     ? Json(adapter.lora.rank)
                : expert != nullptr ? ranks.rank.at(*expert)
                                    : most_common(ranks.rank);
  config["lora_alpha"] = adapted.empty() ? number(static_cast<double>(adapter.lora.scale) * adapter.lora.rank)
                         : expert != nullptr ? ranks.alpha.at(*expert)
                                             : most_common(ranks.alpha);
  config["rank_pattern"] = patterns(ranks.rank, config["r"]);
  config["alpha_pattern"] = patterns(ranks.alpha, config["lora_alpha"]);
  config["target_modules"] = targets(layout, spec, adapted);
}

// ---- What was trained whole

bool is_expert(const DecoderSpec& spec, const std::string& layer) {
  const auto layers = matrix_layers(spec);
  return std::any_of(layers.begin(), layers.end(),
                     [&](const auto& known) { return known.num_experts > 0 && known.name == layer; });
}

// By the names that PEFT saves them under, and `config` says which modules they are. A module is saved with all
// it has; of others PEFT takes single tensors, as it does for `bias`.
Params whole_tensors(const WeightLayout& layout, const DecoderSpec& spec, const Adapter& adapter,
                     const Factors& factors, Json& config) {
  std::map<std::string, std::size_t> sizes; // tensors that a module has
  for (const auto& [name, shape] : expected_tensors(spec)) {
    ++sizes[name.substr(0, name.rfind('.'))];
  }
  std::map<std::string, Params> modules;
  for (const auto& [name, array] : adapter.params) {
    const auto layer = name.substr(0, name.rfind('.'));
    if (!is_adapter_tensor(name)) {
      if (is_expert(spec, layer)) {
        refuse(name, "PEFT has no place for whole experts");
      }
      modules[layer].emplace(name, array);
    }
  }
  Params whole;
  std::set<std::string> saved;
  for (const auto& [layer, params] : modules) {
    const bool adapted = factors.ranks.contains(layer);
    const bool complete = params.size() == sizes[layer] && params.contains(layer + ".weight") && !adapted;
    for (const auto& [name, array] : export_weights(layout, spec, params)) {
      const auto dot = name.rfind('.');
      const auto module = name.substr(0, dot);
      whole.emplace(module + (adapted ? ".base_layer" : "") + name.substr(dot), array);
      if (complete) {
        saved.insert(module);
      } else if (name.ends_with(".bias")) {
        config["bias"] = "all";
      }
    }
  }
  config["modules_to_save"] = saved.empty() ? Json(nullptr) : Json(saved);
  return whole;
}

} // namespace

void save_peft_adapter(const fs::path& folder, const Adapter& adapter, const DecoderSpec& spec,
                       const std::string& base_model) {
  if (adapter.fine_tune_type == "full") {
    throw ConfigError(
        "a model trained whole is no adapter that PEFT could load; fuse it into its model (temper fuse)");
  }
  const auto layout = module_names(spec);
  const auto embedding = spec.prefix + "embed_tokens";
  const auto factors = collect_factors(layout, spec, adapter);
  Json config{{"peft_type", "LORA"},
              {"task_type", "CAUSAL_LM"},
              {"base_model_name_or_path", base_model},
              {"bias", "none"},
              {"fan_in_fan_out", false},
              {"inference_mode", true},
              {"init_lora_weights", true},
              {"lora_dropout", number(static_cast<double>(adapter.lora.dropout))},
              {"use_dora", adapter.lora.dora},
              {"use_rslora", false}};
  add_ranks(layout, spec, adapter, factors, config);
  auto whole = adapter;
  if (const auto weight = adapter.params.find(embedding + ".weight");
      weight != adapter.params.end() && spec.tied_head) {
    whole.params.insert_or_assign(spec.head + ".weight", weight->second);
  }
  auto tensors = whole_tensors(layout, spec, whole, factors, config);
  config["ensure_weight_tying"] =
      spec.tied_head && (factors.ranks.contains(embedding) || adapter.params.contains(embedding + ".weight"));
  const auto embedding_module = modules_of(layout, spec, matrix_layers(spec).front()).front();
  Params written;
  tensors.merge(renamed(layout, spec, factors.params));
  for (const auto& [name, array] : tensors) {
    const bool embeds = name.starts_with(embedding_module + ".lora_");
    written.emplace(
        kRoot + (embeds ? embedding_module + ".lora_embedding_" + name.substr(embedding_module.size() + 6, 1)
                        : name),
        array);
  }
  save_safetensors(folder / "adapter_model.safetensors", written, {{"format", "pt"}});
  write_json(folder / "adapter_config.json", config);
}

} // namespace temper
