#include "temper/config/lora_parameters.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "temper/base/error.h"
#include "temper/base/text.h"
#include "temper/config/name_pattern.h"

namespace temper {
namespace {

const std::string kPissa = "pissa";
const std::string kPissaIterations = "pissa_niter_";

double read_positive(const Json& json, const std::string& name) {
  if (!json.is_number() || json.get<double>() <= 0) {
    throw ConfigError(fmt::format("{} must be a number above 0, got {}", name, dump(json)));
  }
  return json.get<double>();
}

LoraLayerRule read_rule(const Json& json, const std::string& name) {
  LoraLayerRule rule;
  rule.match = read_match(json, name, "layer names such as \"*.mlp.down_proj\"");
  if (json.contains("rank")) {
    if (!json["rank"].is_number_integer() || json["rank"].get<std::int64_t>() < 1) {
      throw ConfigError(
          fmt::format("{}.rank must be a whole number of at least 1, got {}", name, dump(json["rank"])));
    }
    rule.rank = json["rank"].get<int>();
  }
  if (json.contains("alpha")) {
    rule.alpha = read_positive(json["alpha"], name + ".alpha");
  }
  if (json.contains("scale")) {
    rule.scale = read_positive(json["scale"], name + ".scale");
  }
  if (rule.alpha && rule.scale) {
    throw ConfigError(name + ": alpha and scale exclude each other: give one of them");
  }
  return rule;
}

// What only an adapter can be told; mlx-lm's own keys may stand in a file for full fine-tuning.
void check_adapts(const LoraParameters& p, const std::string& fine_tune_type) {
  const auto refuse = [&](bool given, const std::string& key) {
    if (given) {
      throw ConfigError("lora_parameters." + key + " means nothing to fine_tune_type " + fine_tune_type +
                        ": it trains no adapter");
    }
  };
  if (fine_tune_type == "full") {
    refuse(p.use_rslora, "use_rslora");
    refuse(p.lr_ratio.has_value(), "lr_ratio");
    refuse(p.init != "default", "init");
    refuse(!p.layers.is_null(), "layers");
  }
}

} // namespace

void LoraParameters::list(FieldList& fields) {
  fields.add("rank", &rank, "rank of the update").at_least(1).alias("lora_rank");
  fields.add("alpha", &alpha, "the update's weight as PEFT counts it: scale = alpha / rank")
      .above(0)
      .alias("lora_alpha");
  fields.add("scale", &scale, "the update's weight")
      .above(0)
      .alias("lora_scale")
      .unless("lora_parameters.alpha");
  fields.add("dropout", &dropout, "share of the update's inputs dropped while training")
      .at_least(0)
      .below(1)
      .alias("lora_dropout");
  fields
      .add("keys", &keys,
           "layers to adapt, e.g. self_attn.q_proj,self_attn.v_proj,embed_tokens,lm_head; none named: all "
           "linear and expert layers of the blocks")
      .commas()
      .metavar("A,B")
      .alias("lora_keys");
  fields.add("use_rslora", &use_rslora, "rsLoRA: scale = alpha / sqrt(rank)");
  fields.add("lr_ratio", &lr_ratio, "LoRA+: how much faster B learns than A, e.g. 16").above(0);
  fields
      .add("init", &init,
           "how the factors start: default (no change), pissa (the weight's largest singular vectors), "
           "pissa_niter_N (the same by N power iterations: fast)")
      .metavar("NAME");
  fields
      .add("layers", &layers,
           "rank and weight by a layer's name: [{match: \"*.down_proj\", rank: 16, alpha: 32}]")
      .parts({"match", "rank", "alpha", "scale"})
      .metavar("JSON");
}

double LoraParameters::layer_scale() const {
  if (!alpha) {
    return scale;
  }
  return *alpha / (use_rslora ? std::sqrt(static_cast<double>(rank)) : rank);
}

bool LoraParameters::is_pissa() const {
  return init.starts_with(kPissa);
}

std::optional<int> LoraParameters::pissa_iterations() const {
  if (init == "default" || init == kPissa) {
    return std::nullopt;
  }
  if (init.starts_with(kPissaIterations)) {
    const auto count = whole_number(std::string_view(init).substr(kPissaIterations.size()));
    if (count && *count <= std::numeric_limits<int>::max()) {
      return static_cast<int>(*count);
    }
  }
  throw ConfigError("lora_parameters.init: " + init + " is not one of default, pissa, pissa_niter_N");
}

std::vector<LoraLayerRule> LoraParameters::layer_rules() const {
  std::vector<LoraLayerRule> rules;
  if (!layers.is_null()) {
    for (const Json& item : layers.is_array() ? layers : Json::array({layers})) {
      rules.push_back(read_rule(item, fmt::format("lora_parameters.layers[{}]", rules.size())));
    }
  }
  return rules;
}

LoraParameters LoraParameters::with(const LoraLayerRule& rule) const {
  auto result = *this;
  result.rank = rule.rank.value_or(rank);
  if (rule.scale) {
    result.alpha.reset();
    result.scale = *rule.scale;
  } else if (rule.alpha) {
    result.alpha = rule.alpha;
  }
  return result;
}

void check_lora(const LoraParameters& parameters, const std::string& fine_tune_type) {
  parameters.pissa_iterations();
  const auto rules = parameters.layer_rules();
  check_adapts(parameters, fine_tune_type);
  if (parameters.use_rslora && !parameters.alpha) {
    throw ConfigError(
        "lora_parameters.use_rslora needs lora_parameters.alpha: its scale is alpha / sqrt(rank)");
  }
  if (parameters.is_pissa() && fine_tune_type == "dora") {
    throw ConfigError("lora_parameters.init " + parameters.init + " is for fine_tune_type lora, not dora");
  }
}

const LoraLayerRule* rule_of(const std::vector<LoraLayerRule>& rules, const std::string& layer) {
  const auto found = std::find_if(rules.begin(), rules.end(),
                                  [&](const LoraLayerRule& rule) { return fits_pattern(rule.match, layer); });
  return found == rules.end() ? nullptr : &*found;
}

} // namespace temper
