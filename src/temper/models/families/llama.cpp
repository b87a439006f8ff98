// Llama 2, 3, 3.1, 3.2, TinyLlama, SmolLM2 (model_type llama) and Mistral.
// Sources: arXiv:2307.09288 (Llama 2), arXiv:2407.21783 (Llama 3), arXiv:2310.06825 (Mistral).
#include "temper/models/families/families.h"

namespace temper {
namespace {

DecoderSpec read_llama(ConfigReader& config) {
  DecoderSpec spec;
  spec.model_type = config.text("model_type", "llama");
  const bool mistral = spec.model_type == "mistral";
  spec.vocab_size = config.positive("vocab_size");
  spec.hidden_size = config.positive("hidden_size");
  spec.num_layers = config.positive("num_hidden_layers");
  spec.intermediate_size = config.positive("intermediate_size");
  spec.num_heads = config.positive("num_attention_heads");
  spec.num_kv_heads = config.integer("num_key_value_heads", spec.num_heads);
  spec.head_dim = config.integer("head_dim", spec.hidden_size / spec.num_heads);
  spec.norm_eps = config.number("rms_norm_eps", 1e-6F);
  spec.rope = read_rope(config, spec.head_dim, 10000.0F);
  const int window = mistral ? config.integer("sliding_window", 0) : 0;
  spec.windows.assign(static_cast<std::size_t>(spec.num_layers), window);
  spec.tied_head = config.boolean("tie_word_embeddings", false);
  spec.attention_bias = !mistral && config.boolean("attention_bias", false);
  spec.output_bias = spec.attention_bias;
  spec.mlp_bias = !mistral && config.boolean("mlp_bias", false);
  if (mistral) {
    config.expect("attention_bias", {false});
    config.expect("mlp_bias", {false});
  }
  config.expect("hidden_act", {"silu", "swish"});
  config.expect("pretraining_tp", {1});
  config.ignore({"rope_interleaved", "is_llama_config"});
  return spec;
}

std::optional<std::string> llama_tensor_name(const std::string& name) {
  return name.ends_with("rotary_emb.inv_freq") ? std::nullopt : std::optional(name);
}

} // namespace

Family llama_family() {
  return {
      {"llama", "mistral"}, "Llama 2, 3, 3.1, 3.2; TinyLlama; SmolLM2; Mistral", read_llama, llama_tensor_name};
}

} // namespace temper
