#include "temper/io/peft_config.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "temper/base/error.h"
#include "temper/base/json_text.h"
#include "temper/base/log.h"
#include "temper/base/text.h"

namespace temper {
namespace {

// Longer ones are no patterns for names, and the regular expressions' engine recurses.
constexpr std::size_t kLongestPattern = 4096;

// What does not change what an adapter computes once it is trained, or is read below.
const std::set<std::string> kKnown = {"alora_invocation_tokens",
                                      "alpha_pattern",
                                      "arrow_config",
                                      "auto_mapping",
                                      "base_model_name_or_path",
                                      "bias",
                                      "corda_config",
                                      "ensure_weight_tying",
                                      "eva_config",
                                      "exclude_modules",
                                      "fan_in_fan_out", // PEFT turns it off on linear layers
                                      "inference_mode",
                                      "init_lora_weights",
                                      "kasa_config",
                                      "layer_replication",
                                      "layers_pattern",
                                      "layers_to_transform",
                                      "loftq_config",
                                      "lora_alpha",
                                      "lora_bias",
                                      "lora_dropout",
                                      "lora_ga_config",
                                      "megatron_config",
                                      "megatron_core",
                                      "modules_to_save",
                                      "monteclora_config",
                                      "peft_type",
                                      "peft_version",
                                      "qalora_group_size",
                                      "r",
                                      "rank_pattern",
                                      "revision",
                                      "runtime_config",
                                      "target_modules",
                                      "target_parameters",
                                      "task_type",
                                      "trainable_token_indices",
                                      "use_bdlora",
                                      "use_dora",
                                      "use_qalora",
                                      "use_rslora",
                                      "velora_config"};

// Those that make it compute something else, with what to do about it.
const std::vector<std::pair<std::string, std::string>> kRefused = {
    {"lora_bias", "a bias in its B factors"},
    {"use_qalora", "QALoRA"},
    {"alora_invocation_tokens", "an activated LoRA, which begins at certain tokens"},
    {"layer_replication", "replicated layers"},
    {"trainable_token_indices", "single tokens of the embedding, trained apart"},
    {"use_bdlora", "block-diagonal factors"},
    {"arrow_config", "a router among adapters"},
    {"kasa_config", "KaSA, which changes the base's weights"},
    {"monteclora_config", "MonteCLoRA"},
    {"target_parameters", "factors on bare parameters (experts that are one tensor)"},
};

// Starts that leave the base's weights as they are.
const std::set<std::string> kPlainStarts = {"gaussian", "orthogonal", "eva", "kaiming"};

bool is_set(const Json& config, const std::string& key) {
  const auto it = config.find(key);
  if (it == config.end() || it->is_null()) {
    return false;
  }
  return it->is_boolean() ? it->get<bool>() : !((it->is_array() || it->is_object()) && it->empty());
}

std::vector<std::string> texts(const Json& config, const std::string& key, const std::string& origin) {
  const auto it = config.find(key);
  if (it == config.end() || it->is_null()) {
    return {};
  }
  if (it->is_string()) {
    return {it->get<std::string>()};
  }
  try {
    return it->get<std::vector<std::string>>();
  } catch (const Json::exception&) {
    throw CheckpointError(origin + ": " + key + " must be a text or a list of texts");
  }
}

// "layers.0.q_proj" is named by itself, by "q_proj" and by "0.q_proj".
bool names(const std::vector<std::string>& endings, const std::string& module) {
  return std::any_of(endings.begin(), endings.end(), [&](const std::string& ending) {
    return module == ending || module.ends_with("." + ending);
  });
}

// Either a regular expression for the whole name or a list of endings.
bool selects(const Json& config, const std::string& key, const std::string& module, NamePatterns& patterns) {
  const auto chosen = texts(config, key, patterns.origin());
  if (!chosen.empty() && config.at(key).is_string()) {
    return patterns.match(chosen.front(), module);
  }
  return names(chosen, module);
}

// The value of the first pattern that fits the module's name or its end.
const Json* find_pattern(const Json& config, const std::string& key, const std::string& module,
                         NamePatterns& patterns) {
  const auto values = config.find(key);
  if (values == config.end() || values->is_null()) {
    return nullptr;
  }
  for (const auto& [pattern, value] : values->items()) {
    if (patterns.match("(.*\\.)?(" + pattern + ")", module)) {
      return &value;
    }
  }
  return nullptr;
}

[[noreturn]] void refuse(const std::string& origin, const std::string& what) {
  throw CheckpointError(origin + ": " + what +
                        ", which Temper does not compute; merge the adapter into its model with PEFT "
                        "(merge_and_unload) and use that model");
}

void check_start(const Json& config, const std::string& origin) {
  const auto it = config.find("init_lora_weights");
  if (it == config.end() || it->is_null() || it->is_boolean() ||
      (it->is_string() && kPlainStarts.contains(it->get<std::string>()))) {
    return;
  }
  throw CheckpointError(origin + ": init_lora_weights " + dump(*it) +
                        " changes the base's weights when it is loaded; save the adapter as a plain LoRA with "
                        "PEFT's save_pretrained(path_initial_model_for_weight_conversion=...)");
}

void check_keys(const Json& config, const std::string& origin) {
  const auto& type = config.at("peft_type");
  if (type != "LORA") {
    throw CheckpointError(origin + ": peft_type " + dump(type) + " is not supported; Temper loads LORA");
  }
  for (const auto& [key, what] : kRefused) {
    if (is_set(config, key)) {
      refuse(origin, key + ": " + what);
    }
  }
  check_start(config, origin);
  for (const auto& [key, value] : config.items()) {
    if (!kKnown.contains(key)) {
      log::warn(origin + ": key " + key + " is not known and has no effect");
    }
  }
}

bool is_map_of_numbers(const Json& config, const std::string& key) {
  const auto it = config.find(key);
  return it == config.end() || it->is_null() ||
         (it->is_object() &&
          std::all_of(it->begin(), it->end(), [](const Json& value) { return value.is_number(); }));
}

template <typename T>
T read(const Json& config, const std::string& key, T otherwise, const std::string& origin) {
  const auto it = config.find(key);
  if (it == config.end() || it->is_null()) {
    return otherwise;
  }
  const bool fits = std::is_same_v<T, bool>  ? it->is_boolean()
                    : std::is_same_v<T, int> ? it->is_number_integer()
                                             : it->is_number();
  if (!fits) {
    throw CheckpointError(origin + ": " + key + " is " + dump(*it) + ", which is of the wrong kind");
  }
  return it->get<T>();
}

} // namespace

const std::regex& NamePatterns::of(const std::string& pattern) {
  if (const auto known = compiled_.find(pattern); known != compiled_.end()) {
    return known->second;
  }
  try {
    if (pattern.size() <= kLongestPattern) {
      return compiled_.emplace(pattern, pattern).first->second;
    }
  } catch (const std::regex_error&) {
    // said below
  }
  throw CheckpointError(origin_ + ": \"" + pattern.substr(0, 80) +
                        "\" is not a regular expression that Temper knows; list the modules by name instead");
}

bool NamePatterns::match(const std::string& pattern, const std::string& name) {
  return std::regex_match(name, of(pattern));
}

bool PeftConfig::describes(const Json& config) {
  return config.is_object() && config.contains("peft_type");
}

PeftConfig::PeftConfig(Json config, std::string origin)
    : config_(std::move(config)), origin_(std::move(origin)), patterns_(origin_) {
  check_keys(config_, origin_);
  for (const char* key : {"rank_pattern", "alpha_pattern"}) {
    if (!is_map_of_numbers(config_, key)) {
      throw CheckpointError(origin_ + ": " + key + " must give a number for each pattern");
    }
  }
  rslora_ = read(config_, "use_rslora", false, origin_);
  ties_ = read(config_, "ensure_weight_tying", false, origin_);
  alpha_ = read(config_, "lora_alpha", 8.0, origin_);
  lora_.rank = read(config_, "r", 8, origin_);
  lora_.dropout = read(config_, "lora_dropout", 0.0F, origin_);
  lora_.dora = read(config_, "use_dora", false, origin_);
  if (lora_.rank <= 0) {
    throw CheckpointError(origin_ + ": r must be above 0");
  }
  lora_.scale = scale(alpha_, lora_.rank);
}

float PeftConfig::scale(double alpha, int rank) const {
  return static_cast<float>(alpha / (rslora_ ? std::sqrt(static_cast<double>(rank)) : rank));
}

LayerRank PeftConfig::of(const std::string& module) const {
  const auto* rank = find_pattern(config_, "rank_pattern", module, patterns_);
  const auto* alpha = find_pattern(config_, "alpha_pattern", module, patterns_);
  const int own = rank == nullptr ? lora_.rank : rank->get<int>();
  if (own <= 0) {
    throw CheckpointError(origin_ + ": rank_pattern gives " + module + " a rank that is not above 0");
  }
  return {own, scale(alpha == nullptr ? alpha_ : alpha->get<double>(), own)};
}

bool PeftConfig::saves(const std::string& module) const {
  const auto saved = texts(config_, "modules_to_save", origin_);
  return std::any_of(saved.begin(), saved.end(), [&](const std::string& part) {
    return patterns_.match("(.*\\.)?(" + part + ")(\\..*)?", module);
  });
}

// The first number in the name is the block's.
bool PeftConfig::in_layers(const std::string& module) const {
  const auto it = config_.find("layers_to_transform");
  if (it == config_.end() || it->is_null() || (it->is_array() && it->empty())) {
    return true;
  }
  auto patterns = texts(config_, "layers_pattern", origin_);
  std::erase(patterns, "");
  if (patterns.empty()) {
    patterns = {"[^.]*"};
  }
  for (const auto& pattern : patterns) {
    std::smatch found;
    if (!std::regex_search(module, found, patterns_.of("^(?:.*?\\.)?(?:" + pattern + ")\\.(\\d+)\\."),
                           std::regex_constants::match_continuous)) {
      continue;
    }
    const auto block = found.str(found.size() - 1);
    const auto is_block = [&](const Json& number) { return dump(number) == block; };
    return it->is_array() ? std::any_of(it->begin(), it->end(), is_block) : is_block(*it);
  }
  return false;
}

bool PeftConfig::adapts(const std::string& module) const {
  if (selects(config_, "exclude_modules", module, patterns_) || saves(module)) {
    return false;
  }
  const auto targets = config_.find("target_modules");
  if (targets == config_.end() || targets->is_null()) {
    return true; // PEFT's own choice for the model: what it wrote is what it chose
  }
  if (!targets->is_string()) {
    return names(texts(config_, "target_modules", origin_), module) && in_layers(module);
  }
  return lower(targets->get<std::string>()) == "all-linear" ||
         selects(config_, "target_modules", module, patterns_);
}

std::string peft_base_model(const Json& config) {
  return text_at(config, "base_model_name_or_path");
}

} // namespace temper
