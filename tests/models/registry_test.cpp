#include "temper/models/registry.h"

#include <doctest/doctest.h>

#include <functional>

#include "temper/base/error.h"
#include "temper/base/log.h"

using namespace temper;

namespace {

Json llama() {
  return {{"model_type", "llama"},    {"vocab_size", 100},
          {"hidden_size", 32},        {"num_hidden_layers", 2},
          {"intermediate_size", 64},  {"num_attention_heads", 4},
          {"num_key_value_heads", 2}, {"max_position_embeddings", 64},
          {"rms_norm_eps", 1e-5}};
}

Json with(const std::string& key, Json value) {
  auto config = llama();
  config[key] = std::move(value);
  return config;
}

std::string complaint(const Json& config) {
  try {
    read_spec(config, "folder/config.json");
  } catch (const ModelError& error) {
    CHECK(std::string(error.what()).starts_with("folder/config.json"));
    return error.what();
  }
  return "";
}

bool names(const std::string& message, const std::string& part) {
  return message.find(part) != std::string::npos;
}

DecoderSpec read(const Json& config) {
  return read_spec(config, "folder/config.json");
}

std::vector<int> windows(const DecoderSpec& spec) {
  std::vector<int> found;
  for (const auto& layer : spec.layers) {
    found.push_back(layer.window);
  }
  return found;
}

} // namespace

TEST_CASE("a Llama config becomes a spec, with the family's defaults") {
  const auto spec = read(llama());
  CHECK(spec.model_type == "llama");
  CHECK(spec.vocab_size == 100);
  CHECK(spec.head_dim == 8);
  CHECK(spec.num_kv_heads == 2);
  CHECK(spec.ropes.at(0).type == RopeType::plain);
  CHECK(spec.ropes.at(0).base == 10000.0F);
  CHECK(spec.ropes.at(0).dims == 8);
  CHECK(windows(spec) == std::vector<int>{0, 0});
  CHECK_FALSE(spec.tied_head);
  CHECK_FALSE(spec.attention_bias);

  auto sparse = llama();
  sparse.erase("num_key_value_heads");
  sparse.erase("rms_norm_eps");
  CHECK(read(sparse).num_kv_heads == 4);
  CHECK(read(sparse).norm_eps == doctest::Approx(1e-6));

  CHECK(read(with("head_dim", 16)).head_dim == 16);
  CHECK(read(with("head_dim", nullptr)).head_dim == 8);
  CHECK(read(with("tie_word_embeddings", true)).tied_head);
  CHECK(read(with("attention_bias", true)).output_bias);
  CHECK(read(with("mlp_bias", true)).mlp_bias);
}

TEST_CASE("Mistral has a window and no biases") {
  auto config = with("model_type", "mistral");
  config["sliding_window"] = 8;
  config["attention_bias"] = nullptr;
  CHECK(windows(read(config)) == std::vector<int>{8, 8});
  config["sliding_window"] = nullptr;
  CHECK(windows(read(config)) == std::vector<int>{0, 0});
  config["attention_bias"] = true;
  CHECK(names(complaint(config), "attention_bias: true is not supported"));
}

TEST_CASE("unknown and missing model types are refused with those there are") {
  const auto message = complaint(with("model_type", "gpt_neox"));
  CHECK(names(message, "gpt_neox is not supported"));
  CHECK(names(message, "llama, mistral"));
  auto config = llama();
  config.erase("model_type");
  CHECK(names(complaint(config), "model_type is missing"));
  CHECK(names(complaint(with("model_type", 7)), "model_type must be text"));
}

TEST_CASE("missing, mistyped and impossible values are named") {
  for (const std::string key :
       {"vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads"}) {
    CAPTURE(key);
    auto config = llama();
    config.erase(key);
    CHECK(names(complaint(config), key + " is missing"));
    CHECK(names(complaint(with(key, "many")), key + " must be a whole number"));
    CHECK(names(complaint(with(key, true)), key + " must be a whole number, but is true"));
    CHECK(names(complaint(with(key, 2.5)), key + " must be a whole number"));
    CHECK(names(complaint(with(key, 0)), key + " must be at least 1"));
    CHECK(names(complaint(with(key, -4)), key + " must be at least 1"));
  }
  CHECK(names(complaint(with("num_key_value_heads", 3)), "multiple of num_key_value_heads (3)"));
  CHECK(names(complaint(with("num_key_value_heads", 0)), "num_key_value_heads (0)"));
  CHECK(names(complaint(with("head_dim", 7)), "head_dim must be even"));
  CHECK(names(complaint(with("rms_norm_eps", "small")), "rms_norm_eps must be a number"));
  CHECK(names(complaint(with("tie_word_embeddings", 1)), "tie_word_embeddings must be true or false"));
  CHECK(names(complaint(with("hidden_act", "gelu")), "hidden_act: \"gelu\" is not supported"));
  CHECK(names(complaint(with("pretraining_tp", 2)), "pretraining_tp: 2 is not supported"));
  CHECK(names(complaint(with("quantization", {{"bits", 7}})),
              "quantization: quantization mode affine has no bits 7"));
  CHECK(names(complaint(with("quantization_config", {{"quant_method", "awq"}})), "quant_method awq"));
}

TEST_CASE("rope settings are read in both spellings") {
  const auto old = [] {
    auto config = with("rope_scaling", {{"type", "linear"}, {"factor", 4.0}});
    config["rope_theta"] = 5000.0;
    return read(config).ropes.at(0);
  }();
  CHECK(old.type == RopeType::linear);
  CHECK(old.factor == 4.0F);
  CHECK(old.base == 5000.0F);

  const auto fresh = read(with("rope_parameters", {{"rope_type", "llama3"},
                                                   {"rope_theta", 500000.0},
                                                   {"factor", 8.0},
                                                   {"low_freq_factor", 2.0},
                                                   {"high_freq_factor", 5.0},
                                                   {"original_max_position_embeddings", 32}}))
                         .ropes.at(0);
  CHECK(fresh.type == RopeType::llama3);
  CHECK(fresh.base == 500000.0F);
  CHECK(fresh.low_freq_factor == 2.0F);
  CHECK(fresh.high_freq_factor == 5.0F);
  CHECK(fresh.original_max_positions == 32);

  CHECK(read(with("rope_scaling", nullptr)).ropes.at(0).type == RopeType::plain);
  CHECK(read(with("rope_scaling", {{"rope_type", "default"}})).ropes.at(0).type == RopeType::plain);
}

TEST_CASE("rope that is not implemented is refused") {
  const auto message = complaint(with("rope_scaling", {{"rope_type", "proportional"}, {"factor", 2.0}}));
  CHECK(names(message, "proportional is not supported"));
  CHECK(names(message, "yarn"));
  CHECK(
      names(complaint(with("rope_scaling", {{"type", "linear"}, {"factor", 0.0}})), "factor must be positive"));
  CHECK(names(complaint(with("rope_scaling", {{"type", "linear"}, {"factor", "two"}})),
              "factor must be a number"));
  CHECK(names(complaint(with("rope_scaling", "linear")), "rope_scaling must be an object"));
}

TEST_CASE("Gemma 2's soft caps are filled in, and null is none") {
  auto config = llama();
  config["model_type"] = "gemma2";
  CHECK(read(config).attention_softcap == 50.0F);
  CHECK(read(config).logit_softcap == 30.0F);
  config["attn_logit_softcapping"] = nullptr;
  config["final_logit_softcapping"] = 20.0;
  CHECK(read(config).attention_softcap == 0.0F);
  CHECK(read(config).logit_softcap == 20.0F);
}

TEST_CASE("LFM2 attends in every layer unless its config says which") {
  auto config = llama();
  config["model_type"] = "lfm2";
  config["conv_L_cache"] = 3;
  CHECK(read(config).layers[0].mixer == Mixer::attention);
  config["full_attn_idxs"] = {1};
  CHECK(read(config).layers[0].mixer == Mixer::short_conv);
  CHECK(read(config).layers[1].mixer == Mixer::attention);
}

TEST_CASE("unknown keys are warned of by name, bookkeeping is not") {
  std::string lines;
  log::set_writer([&](std::string_view line) { lines += line; });
  auto config = with("torch_dtype", "bfloat16");
  config["bos_token_id"] = 1;
  config["attention_dropout"] = 0.0;
  read_spec(config, "known/config.json");
  CHECK(lines.empty());
  config["secret_sauce"] = 3;
  read_spec(config, "unknown/config.json");
  CHECK(names(lines, "unknown/config.json"));
  CHECK(names(lines, "secret_sauce"));
  log::set_writer(nullptr);
}

TEST_CASE("every family names its types and tells parameters from buffers") {
  for (const auto& family : families()) {
    CHECK_FALSE(family.model_types.empty());
    CHECK_FALSE(family.description.empty());
  }
  const auto one = mx::ones({2});
  const Params stored{{"model.norm.weight", one}, {"model.layers.0.self_attn.rotary_emb.inv_freq", one}};
  const auto params = import_weights(find_family("llama", "here").layout, read(llama()), stored, "here");
  CHECK(params.size() == 1);
  CHECK(params.contains("model.norm.weight"));
}
