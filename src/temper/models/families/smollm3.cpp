// SmolLM3: Llama's blocks, every fourth layer without rope.
// Source: the model card and blog post of SmolLM3 (2025); NoPE: arXiv:2305.19466.
#include "temper/models/families/families.h"

namespace temper {
namespace {

DecoderSpec read_smollm3(ConfigReader& config) {
  auto spec = read_common(config);
  spec.tied_head = config.boolean("tie_word_embeddings", true);
  spec.attention_bias = config.boolean("attention_bias", false);
  spec.output_bias = spec.attention_bias;
  spec.mlp_bias = config.boolean("mlp_bias", false);
  spec.ropes = {read_rope(config, spec.head_dim, 2e6F)};
  const int window = config.boolean("use_sliding_window", false) ? config.integer("sliding_window", 0) : 0;
  read_windows(config, spec, window, [](int) { return false; });
  const auto with_rope = config.integers("no_rope_layers"); // 1: with, 0: without
  const int interval = config.positive("no_rope_layer_interval", 4);
  if (!with_rope.empty() && with_rope.size() != spec.layers.size()) {
    config.fail("no_rope_layers and num_hidden_layers disagree");
  }
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    const bool rope = with_rope.empty() ? (static_cast<int>(i) + 1) % interval != 0 : with_rope[i] != 0;
    spec.layers[i].rope = rope ? 0 : kNoRope;
  }
  config.expect("hidden_act", {"silu"});
  config.ignore({"pretraining_tp", "max_window_layers", "sliding_window"});
  return spec;
}

} // namespace

Family smollm3_family() {
  return {{"smollm3"}, "SmolLM3", {"layers without rope"}, read_smollm3, {}};
}

} // namespace temper
