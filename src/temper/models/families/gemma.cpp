// Gemma 2 and Gemma 3: text models, and the language tower of Gemma 3's multimodal checkpoints.
// Sources: arXiv:2408.00118 (Gemma 2), arXiv:2503.19786 (Gemma 3).
#include <cmath>

#include "temper/models/families/families.h"

namespace temper {
namespace {

// The hub's Gemma 3 configs leave out what transformers fills in.
const Json kGemma3Defaults = {{"vocab_size", 262208},     {"num_attention_heads", 8},
                              {"num_key_value_heads", 4}, {"head_dim", 256},
                              {"sliding_window", 4096},   {"max_position_embeddings", 131072}};

DecoderSpec read_gemma(ConfigReader& config) {
  auto spec = read_common(config);
  spec.tied_head = config.boolean("tie_word_embeddings", true);
  spec.norm_plus_one = true;
  spec.names.mixer_post_norm = "post_attention_layernorm";
  spec.names.mlp_norm = "pre_feedforward_layernorm";
  spec.names.mlp_post_norm = "post_feedforward_layernorm";
  spec.embedding_scale = std::sqrt(static_cast<float>(spec.hidden_size));
  spec.attention_scale = 1.0F / std::sqrt(config.number("query_pre_attn_scalar", 256.0F));
  spec.attention_softcap = config.number("attn_logit_softcapping", 0.0F);
  spec.logit_softcap = config.number("final_logit_softcapping", 0.0F);
  spec.activation = Activation::gelu_tanh;
  spec.attention_bias = config.boolean("attention_bias", false);
  spec.output_bias = spec.attention_bias;
  config.expect("hidden_activation", {"gelu_pytorch_tanh"});
  config.expect("hidden_act", {"gelu_pytorch_tanh", "gelu"}); // Gemma 2's is overruled by hidden_activation
  config.expect("use_bidirectional_attention", {false});
  config.ignore({"cache_implementation", "rope_local_base_freq", "sliding_window_pattern",
                 "_sliding_window_pattern", "sliding_window_size"});
  return spec;
}

DecoderSpec read_gemma2(ConfigReader& config) {
  auto spec = read_gemma(config);
  // As transformers fills them in; null is none.
  spec.attention_softcap = config.contains("attn_logit_softcapping") ? spec.attention_softcap : 50.0F;
  spec.logit_softcap = config.contains("final_logit_softcapping") ? spec.logit_softcap : 30.0F;
  spec.ropes = {read_rope(config, spec.head_dim, 10000.0F)};
  read_windows(config, spec, config.integer("sliding_window", 4096), [](int layer) { return layer % 2 == 0; });
  return spec;
}

// Rope 0 turns the layers that see everything, rope 1 the sliding ones.
void read_gemma3_ropes(ConfigReader& config, DecoderSpec& spec) {
  const auto* parameters = config.object("rope_parameters");
  if (parameters != nullptr && parameters->contains("full_attention")) {
    spec.ropes = {read_rope_section(config, "full_attention", spec.head_dim, 1e6F),
                  read_rope_section(config, "sliding_attention", spec.head_dim, 10000.0F)};
    return;
  }
  spec.ropes = {read_rope(config, spec.head_dim, 1e6F)};
  RopeSpec local;
  local.dims = spec.head_dim;
  local.base = config.number("rope_local_base_freq", 10000.0F);
  spec.ropes.push_back(local);
}

DecoderSpec read_gemma3(ConfigReader& config) {
  config.set_defaults(kGemma3Defaults);
  auto spec = read_gemma(config);
  if (spec.model_type == "gemma3") {
    spec.prefix = "language_model.model.";
    spec.head = "language_model.lm_head";
  }
  spec.qk_norm = QkNorm::head;
  read_gemma3_ropes(config, spec);
  const int period = config.positive("sliding_window_pattern", 6);
  read_windows(config, spec, config.positive("sliding_window"),
               [&](int layer) { return (layer + 1) % period != 0; });
  for (auto& layer : spec.layers) {
    layer.rope = layer.window > 0 ? 1 : 0;
  }
  return spec;
}

} // namespace

Family gemma2_family() {
  return {{"gemma2"}, "Gemma 2", {"alternating windows", "soft caps", "norms around layers"}, read_gemma2, {}};
}

Family gemma3_text_family() {
  return {{"gemma3_text"},
          "Gemma 3 (text)",
          {"local and global layers, two ropes", "q, k norms", "norms around layers"},
          read_gemma3,
          {}};
}

Family gemma3_family() {
  return {{"gemma3"},
          "Gemma 3 (the language tower of multimodal checkpoints)",
          {"local and global layers, two ropes", "q, k norms", "norms around layers"},
          read_gemma3,
          {.prefixes = {{"model.language_model.", "language_model.model."},
                        {"lm_head.", "language_model.lm_head."}},
           .keep_prefixes = true, // mlx-lm reads no others
           .left_out = {"vision_tower.", "multi_modal_projector."}},
          "text_config"};
}

} // namespace temper
