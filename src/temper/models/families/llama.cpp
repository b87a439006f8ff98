// Llama 2, 3, 3.1, 3.2, TinyLlama, SmolLM2 (model_type llama) and Mistral.
// Sources: arXiv:2307.09288 (Llama 2), arXiv:2407.21783 (Llama 3), arXiv:2310.06825 (Mistral).
#include "temper/models/families/families.h"

namespace temper {
namespace {

DecoderSpec read_llama(ConfigReader& config) {
  auto spec = read_common(config);
  spec.ropes = {read_rope(config, spec.head_dim, 10000.0F)};
  if (spec.model_type == "mistral") {
    const int window = config.integer("sliding_window", 0);
    read_windows(config, spec, window, [](int) { return true; });
    config.expect("attention_bias", {false});
    config.expect("mlp_bias", {false});
  } else {
    spec.attention_bias = config.boolean("attention_bias", false);
    spec.output_bias = spec.attention_bias;
    spec.mlp_bias = config.boolean("mlp_bias", false);
  }
  config.expect("hidden_act", {"silu", "swish"});
  config.expect("pretraining_tp", {1});
  config.ignore({"rope_interleaved", "is_llama_config"});
  return spec;
}

} // namespace

Family llama_family() {
  return {{"llama", "mistral"},
          "Llama 2, 3, 3.1, 3.2; TinyLlama; SmolLM2; Mistral",
          {"rope: linear, dynamic, llama3, yarn", "sliding window (Mistral)", "biases"},
          read_llama,
          {.left_out = {"rotary_emb.inv_freq"}}};
}

} // namespace temper
