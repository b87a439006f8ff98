#include "temper/models/registry.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "temper/base/error.h"
#include "temper/models/families/families.h"
#include "temper/quant/quant_config.h"

namespace temper {
namespace {

// Keys of every config.json that say nothing about the computation.
const std::vector<std::string> kBookkeepingKeys = {
    "architectures",
    "torch_dtype",
    "dtype",
    "transformers_version",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "use_cache",
    "initializer_range",
    "attention_dropout",
    "_name_or_path",
    "max_position_embeddings",
    "return_dict",
    "output_attentions",
    "unk_token_id",
    "output_hidden_states",
    "chunk_size_feed_forward",
    "is_encoder_decoder",
    "id2label",
    "label2id",
    "problem_type",
    "transformers.js_config",
    "auto_map",
    "model_type",
    "quantization",
    "quantization_config",
};

constexpr int kAbsent = -1000000; // of a size that only some families need

void check_spec(const DecoderSpec& spec, const ConfigReader& config) {
  if (spec.num_kv_heads < 1 || spec.num_heads % spec.num_kv_heads != 0) {
    config.fail("num_attention_heads (" + std::to_string(spec.num_heads) +
                ") must be a multiple of num_key_value_heads (" + std::to_string(spec.num_kv_heads) + ")");
  }
  if (spec.head_dim < 2 || spec.head_dim % 2 != 0) {
    config.fail("head_dim must be even and at least 2, but is " + std::to_string(spec.head_dim));
  }
  const bool dense = std::any_of(spec.layers.begin(), spec.layers.end(), [](const auto& l) { return !l.moe; });
  if (dense && spec.intermediate_size < 1) {
    config.fail(spec.intermediate_size == kAbsent
                    ? "the key intermediate_size is missing"
                    : "intermediate_size must be at least 1, but is " + std::to_string(spec.intermediate_size));
  }
  if (spec.attention_softcap < 0.0F || spec.logit_softcap < 0.0F) {
    config.fail("attn_logit_softcapping and final_logit_softcapping must not be negative");
  }
  if (!std::isfinite(spec.attention_scale) || spec.attention_scale < 0.0F) {
    config.fail("the attention scores' scale must be positive");
  }
  const auto& routing = spec.moe.routing;
  if (spec.moe.num_experts > 0 && (routing.num_chosen < 1 || routing.num_chosen > spec.moe.num_experts)) {
    config.fail("num_experts_per_tok (" + std::to_string(routing.num_chosen) + ") must lie between 1 and the " +
                std::to_string(spec.moe.num_experts) + " experts that there are");
  }
}

// transformers' _compute_yarn_parameters: the attention factor, given or inferred.
float yarn_magnitude(ConfigReader& rope, float factor) {
  const auto mscale_of = [&](float weight) {
    return factor <= 1.0F ? 1.0F : 0.1F * weight * std::log(factor) + 1.0F;
  };
  const float mscale = rope.number("mscale", 0.0F);
  const float mscale_all_dim = rope.number("mscale_all_dim", 0.0F);
  const float inferred = mscale != 0.0F && mscale_all_dim != 0.0F
                             ? mscale_of(mscale) / mscale_of(mscale_all_dim)
                             : mscale_of(1.0F);
  return rope.number("attention_factor", inferred);
}

} // namespace

const std::vector<Family>& families() {
  static const std::vector<Family> all{
      llama_family(),  qwen_family(),        qwen3_5_family(), qwen3_5_text_family(), gemma2_family(),
      gemma3_family(), gemma3_text_family(), phi3_family(),    lfm2_family(),         smollm3_family(),
      olmo2_family(),  granite_family(),     mixtral_family(), gpt_oss_family()};
  return all;
}

const Family& find_family(const std::string& model_type, const std::string& origin) {
  std::string known;
  for (const auto& family : families()) {
    for (const auto& type : family.model_types) {
      if (type == model_type) {
        return family;
      }
      known += (known.empty() ? "" : ", ") + type;
    }
  }
  throw ModelError(origin + ": model_type " +
                   (model_type.empty() ? "is missing" : model_type + " is not supported") + "; supported are " +
                   known);
}

DecoderSpec read_spec(const Json& config, const std::string& origin) {
  ConfigReader outer(config, origin);
  const auto model_type = outer.text("model_type", "");
  const auto& family = find_family(model_type, origin);
  const auto* section = family.section != nullptr ? outer.object(family.section) : nullptr;
  auto described = section != nullptr ? *section : config;
  described["model_type"] = model_type;
  if (section != nullptr && !section->contains("tie_word_embeddings") &&
      config.contains("tie_word_embeddings")) {
    described["tie_word_embeddings"] = config["tie_word_embeddings"];
  }
  ConfigReader reader(std::move(described), section != nullptr ? origin + ": " + family.section : origin);
  auto spec = family.read_spec(reader);
  reader.ignore(kBookkeepingKeys);
  read_quant_config(config, origin); // another tool's packing is refused before the weights are read
  reader.warn_unknown();
  check_spec(spec, reader);
  return spec;
}

namespace {

RopeType rope_type(const ConfigReader& config, const std::string& name) {
  static const std::map<std::string, RopeType> types{
      {"default", RopeType::plain}, {"linear", RopeType::linear}, {"dynamic", RopeType::dynamic},
      {"llama3", RopeType::llama3}, {"yarn", RopeType::yarn},     {"longrope", RopeType::longrope},
      {"su", RopeType::longrope}};
  const auto it = types.find(name);
  if (it == types.end()) {
    config.fail("rope type " + name +
                " is not supported; supported are default, linear, dynamic, llama3, yarn, longrope");
  }
  return it->second;
}

// transformers' _compute_longrope_parameters.
void read_longrope(ConfigReader& config, ConfigReader& rope, RopeSpec& spec) {
  spec.short_factors = rope.numbers("short_factor");
  spec.long_factors = rope.numbers("long_factor");
  for (const auto& [name, factors] :
       {std::pair{"short_factor", &spec.short_factors}, std::pair{"long_factor", &spec.long_factors}}) {
    if (factors->size() != static_cast<std::size_t>(spec.dims / 2)) {
      config.fail("rope settings: " + std::string(name) + " has " + std::to_string(factors->size()) +
                  " numbers, half of the rotated features are " + std::to_string(spec.dims / 2));
    }
  }
  const auto original = static_cast<float>(spec.original_max_positions);
  const float factor = rope.number("factor", static_cast<float>(spec.max_positions) / original);
  const float inferred = factor <= 1.0F ? 1.0F : std::sqrt(1.0F + std::log(factor) / std::log(original));
  spec.magnitude = rope.number("attention_factor", inferred);
}

// `source`: the settings' object; what it lacks the config's top level may say.
RopeSpec read_rope_object(ConfigReader& config, const Json& source, int head_dim, float default_base) {
  ConfigReader rope(source, config.origin() + ": rope settings");
  RopeSpec spec;
  const float share = rope.number("partial_rotary_factor", config.number("partial_rotary_factor", 1.0F));
  spec.dims = static_cast<int>(static_cast<float>(head_dim) * share);
  spec.base = rope.number("rope_theta", config.number("rope_theta", default_base));
  spec.max_positions = config.integer("max_position_embeddings", 2048);
  spec.original_max_positions =
      rope.integer("original_max_position_embeddings",
                   config.integer("original_max_position_embeddings", spec.max_positions));
  spec.factor = rope.number("factor", 1.0F);
  spec.type = rope_type(config, rope.text("rope_type", rope.text("type", "default")));
  if (spec.type == RopeType::llama3) {
    spec.low_freq_factor = rope.number("low_freq_factor", 1.0F);
    spec.high_freq_factor = rope.number("high_freq_factor", 4.0F);
  } else if (spec.type == RopeType::yarn) {
    spec.beta_fast = rope.number("beta_fast", 32.0F);
    spec.beta_slow = rope.number("beta_slow", 1.0F);
    spec.truncate = rope.boolean("truncate", true);
    spec.magnitude = yarn_magnitude(rope, spec.factor);
  } else if (spec.type == RopeType::longrope) {
    read_longrope(config, rope, spec);
  }
  if (share != 1.0F && (spec.dims < 2 || spec.dims % 2 != 0 || spec.dims > head_dim)) {
    config.fail("partial_rotary_factor turns " + std::to_string(spec.dims) + " of a head's " +
                std::to_string(head_dim) + " features; an even number is needed");
  }
  if (spec.type != RopeType::plain && !(spec.factor > 0.0F)) {
    config.fail("the rope factor must be positive");
  }
  return spec;
}

} // namespace

DecoderSpec read_common(ConfigReader& config) {
  DecoderSpec spec;
  spec.model_type = config.text("model_type", "");
  spec.vocab_size = config.positive("vocab_size");
  spec.hidden_size = config.positive("hidden_size");
  spec.num_layers = config.positive("num_hidden_layers");
  spec.intermediate_size = config.integer("intermediate_size", kAbsent);
  spec.num_heads = config.positive("num_attention_heads");
  spec.num_kv_heads = config.integer("num_key_value_heads", spec.num_heads);
  spec.head_dim = config.integer("head_dim", spec.hidden_size / spec.num_heads);
  spec.norm_eps = config.number("rms_norm_eps", 1e-6F);
  spec.tied_head = config.boolean("tie_word_embeddings", false);
  spec.layers.assign(static_cast<std::size_t>(spec.num_layers), {});
  return spec;
}

std::vector<bool> layers_of_kind(ConfigReader& config, const DecoderSpec& spec, const std::string& kind,
                                 const std::function<bool(int layer)>& otherwise) {
  const auto types = config.texts("layer_types");
  if (!types.empty() && types.size() != spec.layers.size()) {
    config.fail("layer_types names " + std::to_string(types.size()) + " layers, num_hidden_layers says " +
                std::to_string(spec.num_layers));
  }
  std::vector<bool> found(spec.layers.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (!types.empty() && types[i] != "full_attention" && types[i] != kind) {
      config.fail("layer_types: " + types[i] + " is not supported for this family");
    }
    found[i] = types.empty() ? otherwise(static_cast<int>(i)) : types[i] == kind;
  }
  return found;
}

void read_windows(ConfigReader& config, DecoderSpec& spec, int window,
                  const std::function<bool(int layer)>& is_sliding) {
  if (window < 0) {
    config.fail("sliding_window must not be negative, but is " + std::to_string(window));
  }
  const auto sliding = layers_of_kind(config, spec, "sliding_attention", is_sliding);
  for (std::size_t i = 0; i < sliding.size(); ++i) {
    spec.layers[i].window = sliding[i] ? window : 0;
  }
}

RopeSpec read_rope(ConfigReader& config, int head_dim, float default_base) {
  static const Json kNone = Json::object();
  const auto* parameters = config.object("rope_parameters");
  const auto* scaling = config.object("rope_scaling");
  const auto* source = parameters != nullptr ? parameters : scaling;
  return read_rope_object(config, source != nullptr ? *source : kNone, head_dim, default_base);
}

RopeSpec read_rope_section(ConfigReader& config, const std::string& section, int head_dim, float default_base) {
  const auto* parameters = config.object("rope_parameters");
  if (parameters == nullptr || !parameters->contains(section) || !parameters->at(section).is_object()) {
    config.fail("rope_parameters has no section " + section);
  }
  return read_rope_object(config, parameters->at(section), head_dim, default_base);
}

} // namespace temper
