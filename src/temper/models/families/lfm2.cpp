// LFM2: blocks of a short gated convolution, some of attention. Source: arXiv:2511.23404.
#include <algorithm>

#include "temper/models/families/families.h"

namespace temper {
namespace {

// The feed-forward width, as the model's code derives it.
int feed_forward_size(ConfigReader& config) {
  int size = config.integer("block_ff_dim", config.integer("intermediate_size", 0));
  const float multiplier = config.number("block_ffn_dim_multiplier", 1.0F);
  const int multiple = std::max(1, config.integer("block_multiple_of", 256));
  if (config.boolean("block_auto_adjust_ff_dim", true)) {
    const int two_thirds = 2 * size / 3;
    size = static_cast<int>(multiplier * static_cast<float>(two_thirds));
    size = (size + multiple - 1) / multiple * multiple;
  }
  return size;
}

DecoderSpec read_lfm2(ConfigReader& config) {
  auto spec = read_common(config);
  spec.intermediate_size = feed_forward_size(config);
  spec.norm_eps = config.number("norm_eps", 1e-5F);
  spec.tied_head = config.boolean("tie_word_embeddings", config.boolean("tie_embedding", true));
  spec.final_norm = "embedding_norm";
  spec.names = {.output = "out_proj",
                .q_norm = "q_layernorm",
                .k_norm = "k_layernorm",
                .mlp = "feed_forward",
                .gate = "w1",
                .up = "w3",
                .down = "w2",
                .mixer_norm = "operator_norm",
                .mlp_norm = "ffn_norm"};
  spec.qk_norm = QkNorm::head;
  spec.conv = {config.positive("conv_L_cache"), config.boolean("conv_bias", false)};
  spec.ropes = {read_rope(config, spec.head_dim, 1e6F)};
  const auto attention = config.integers("full_attn_idxs");
  // Without either key every layer attends, as in transformers.
  const auto conv = layers_of_kind(config, spec, "conv", [&](int layer) {
    return config.contains("full_attn_idxs") &&
           std::find(attention.begin(), attention.end(), layer) == attention.end();
  });
  for (std::size_t i = 0; i < conv.size(); ++i) {
    spec.layers[i].mixer = conv[i] ? Mixer::short_conv : Mixer::attention;
  }
  config.ignore({"block_dim", "block_mlp_init_scale", "block_norm_eps", "block_out_init_scale", "conv_dim",
                 "block_use_swiglu", "block_use_xavier_init", "conv_dim_out", "conv_use_xavier_init",
                 "num_heads", "use_pos_enc", "theta"});
  return spec;
}

Params rearrange(const DecoderSpec&, Params params) {
  return transpose_convolutions(std::move(params), "conv.conv.weight");
}

Params restore(const DecoderSpec&, Params params) {
  return restore_convolutions(std::move(params), "conv.conv.weight");
}

} // namespace

Family lfm2_family() {
  return {{"lfm2"},
          "LFM2",
          {"short convolutions", "q, k norms"},
          read_lfm2,
          {.rearrange = rearrange, .restore = restore}};
}

} // namespace temper
