// A model folder of random weights, small enough to write in a test.
#pragma once

#include "nn/support.h"
#include "temper/base/json.h"
#include "temper/io/model_folder.h"
#include "temper/io/safetensors.h"
#include "temper/models/decoder.h"
#include "temper/models/registry.h"
#include "text/fixtures.h"

namespace temper::test {

// Two blocks of 16 features; `changes` are keys of config.json to set.
inline Json tiny_config(const Json& changes = Json::object()) {
  Json config{{"model_type", "llama"},       {"vocab_size", 300},       {"hidden_size", 16},
              {"num_hidden_layers", 2},      {"intermediate_size", 24}, {"num_attention_heads", 2},
              {"num_key_value_heads", 1},    {"rms_norm_eps", 1e-5},    {"max_position_embeddings", 128},
              {"tie_word_embeddings", true}, {"torch_dtype", "float32"}};
  config.update(changes);
  return config;
}

inline Params random_params(const DecoderSpec& spec, float size = 0.3F) {
  Params params;
  for (const auto& [name, shape] : expected_tensors(spec)) {
    const auto noise = size * randn(shape, name);
    params.emplace(name, shape.size() == 1 ? noise + mx::array(1.0F) : noise);
  }
  return params;
}

inline Model tiny_model(const Json& changes = Json::object()) {
  Model model;
  model.config = tiny_config(changes);
  model.spec = read_spec(model.config, "config.json");
  model.params = random_params(model.spec);
  mx::eval(values(model.params));
  return model;
}

inline void write_model(const std::filesystem::path& folder, const Model& model) {
  write_json(folder / "config.json", model.config);
  save_safetensors(folder / "model.safetensors", model.params);
}

} // namespace temper::test
