#include "temper/models/registry.h"

#include <algorithm>
#include <cmath>

#include "temper/base/error.h"
#include "temper/models/families/families.h"

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
};

void check_shapes(const DecoderSpec& spec, const ConfigReader& config) {
  if (spec.num_kv_heads < 1 || spec.num_heads % spec.num_kv_heads != 0) {
    config.fail("num_attention_heads (" + std::to_string(spec.num_heads) +
                ") must be a multiple of num_key_value_heads (" + std::to_string(spec.num_kv_heads) + ")");
  }
  if (spec.head_dim < 2 || spec.head_dim % 2 != 0) {
    config.fail("head_dim must be even and at least 2, but is " + std::to_string(spec.head_dim));
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
  static const std::vector<Family> all{llama_family()};
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
  ConfigReader reader(config, origin);
  const auto& family = find_family(reader.text("model_type", ""), origin);
  auto spec = family.read_spec(reader);
  reader.ignore(kBookkeepingKeys);
  for (const char* key : {"quantization", "quantization_config"}) {
    if (reader.object(key) != nullptr) {
      reader.fail(std::string(key) + ": quantized weights are not supported; take the unquantized model");
    }
  }
  reader.warn_unknown();
  check_shapes(spec, reader);
  return spec;
}

RopeSpec read_rope(ConfigReader& config, int rotated_dims, float default_base) {
  const Json none = Json::object();
  const auto* parameters = config.object("rope_parameters");
  const auto* scaling = config.object("rope_scaling");
  const auto* source = parameters != nullptr ? parameters : scaling;
  ConfigReader rope(source != nullptr ? *source : none, config.origin() + ": rope settings");

  RopeSpec spec;
  spec.dims = rotated_dims;
  spec.base = rope.number("rope_theta", config.number("rope_theta", default_base));
  spec.max_positions = config.integer("max_position_embeddings", 2048);
  spec.original_max_positions =
      rope.integer("original_max_position_embeddings",
                   config.integer("original_max_position_embeddings", spec.max_positions));
  spec.factor = rope.number("factor", 1.0F);

  const auto type = rope.text("rope_type", rope.text("type", "default"));
  if (type == "default") {
    spec.type = RopeType::plain;
  } else if (type == "linear") {
    spec.type = RopeType::linear;
  } else if (type == "dynamic") {
    spec.type = RopeType::dynamic;
  } else if (type == "llama3") {
    spec.type = RopeType::llama3;
    spec.low_freq_factor = rope.number("low_freq_factor", 1.0F);
    spec.high_freq_factor = rope.number("high_freq_factor", 4.0F);
  } else if (type == "yarn") {
    spec.type = RopeType::yarn;
    spec.beta_fast = rope.number("beta_fast", 32.0F);
    spec.beta_slow = rope.number("beta_slow", 1.0F);
    spec.truncate = rope.boolean("truncate", true);
    spec.magnitude = yarn_magnitude(rope, spec.factor);
  } else {
    config.fail("rope type " + type +
                " is not supported; supported are default, linear, dynamic, llama3, yarn");
  }
  if (spec.type != RopeType::plain && !(spec.factor > 0.0F)) {
    config.fail("the rope factor must be positive");
  }
  return spec;
}

} // namespace temper
