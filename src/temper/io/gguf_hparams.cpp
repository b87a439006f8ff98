// A spec's settings as llama.cpp reads them.
#include <algorithm>
#include <cmath>

#include "temper/io/gguf_arch.h"

namespace temper {
namespace {

// Collects keys of one architecture.
class Keys {
 public:
  explicit Keys(std::string arch) : arch_(std::move(arch)) {
  }
  void add(const std::string& key, GgufValue value) {
    metadata_.emplace_back(arch_ + "." + key, std::move(value));
  }
  void add(const std::string& key, int value) {
    add(key, GgufValue(static_cast<std::uint32_t>(value)));
  }
  void add(const std::string& key, float value) {
    add(key, GgufValue(value));
  }
  GgufMetadata take() {
    return std::move(metadata_);
  }

 private:
  std::string arch_;
  GgufMetadata metadata_;
};

void add_scaling(const RopeSpec& rope, Keys& keys) {
  const auto type = [&](const char* name) { keys.add("rope.scaling.type", GgufValue(std::string(name))); };
  switch (rope.type) {
    case RopeType::linear:
      type("linear");
      keys.add("rope.scaling.factor", rope.factor);
      break;
    case RopeType::yarn: {
      type("yarn");
      keys.add("rope.scaling.factor", rope.factor);
      keys.add("rope.scaling.original_context_length", rope.original_max_positions);
      keys.add("rope.scaling.yarn_beta_fast", rope.beta_fast);
      keys.add("rope.scaling.yarn_beta_slow", rope.beta_slow);
      // llama.cpp multiplies by yarn's usual magnitude on its own.
      const float usual = rope.factor <= 1.0F ? 1.0F : 0.1F * std::log(rope.factor) + 1.0F;
      if (std::abs(rope.magnitude / usual - 1.0F) > 1e-6F) {
        keys.add("rope.scaling.attn_factor", rope.magnitude / usual);
      }
      break;
    }
    case RopeType::longrope:
      type("longrope");
      keys.add("rope.scaling.original_context_length", rope.original_max_positions);
      keys.add("rope.scaling.attn_factor", rope.magnitude);
      break;
    case RopeType::plain:
    case RopeType::dynamic:
    case RopeType::llama3: // by its tensor of factors
      break;
  }
}

void add_rope(const DecoderSpec& spec, Keys& keys) {
  const auto& rope = spec.ropes.front();
  keys.add("rope.dimension_count", rope.dims);
  keys.add("rope.freq_base", rope.base);
  if (spec.ropes.size() > 1) {
    keys.add("rope.freq_base_swa", spec.ropes[1].base);
  }
  add_scaling(rope, keys);
}

// Qwen3.5's: which layers attend, the delta nets' sizes, and the sections of a rope for pictures, which turn
// all as one where there are none.
void add_delta(const DecoderSpec& spec, Keys& keys) {
  const auto& delta = spec.delta;
  std::vector<bool> recurrent;
  recurrent.reserve(spec.layers.size());
  for (const auto& layer : spec.layers) {
    recurrent.push_back(layer.mixer == Mixer::gated_delta);
  }
  const auto interval = std::find(recurrent.begin(), recurrent.end(), false) - recurrent.begin() + 1;
  bool regular = true;
  for (std::size_t i = 0; i < recurrent.size(); ++i) {
    regular = regular && recurrent[i] == ((static_cast<std::ptrdiff_t>(i) + 1) % interval != 0);
  }
  if (regular) {
    keys.add("full_attention_interval", static_cast<int>(interval));
  } else {
    keys.add("attention.recurrent_layers",
             GgufValue(GgufArray(std::vector<std::int32_t>(recurrent.begin(), recurrent.end()))));
  }
  keys.add("ssm.conv_kernel", delta.taps);
  keys.add("ssm.state_size", delta.key_dim);
  keys.add("ssm.group_count", delta.num_key_heads);
  keys.add("ssm.time_step_rank", delta.num_value_heads);
  keys.add("ssm.inner_size", delta.num_value_heads * delta.value_dim);
  const int pairs = spec.ropes.front().dims / 2;
  keys.add("rope.dimension_sections",
           GgufValue(GgufArray(std::vector<std::int32_t>{(pairs + 2) / 3, (pairs + 1) / 3, pairs / 3, 0})));
}

void add_windows(const DecoderSpec& spec, const GgufArch& arch, Keys& keys) {
  int window = 0;
  std::vector<bool> pattern;
  for (const auto& layer : spec.layers) {
    window = std::max(window, layer.window);
    pattern.push_back(layer.window > 0);
  }
  if ((arch.windows || arch.window_keys) && window > 0) {
    keys.add("attention.sliding_window", window);
    keys.add("attention.sliding_window_pattern", GgufValue(GgufArray(pattern)));
  }
}

void add_heads(const DecoderSpec& spec, Keys& keys) {
  keys.add("attention.head_count", spec.num_heads);
  const bool convolves = std::any_of(spec.layers.begin(), spec.layers.end(),
                                     [](const LayerSpec& layer) { return layer.mixer == Mixer::short_conv; });
  if (convolves) {
    std::vector<std::int32_t> kv_heads; // 0: a layer that does not attend
    kv_heads.reserve(spec.layers.size());
    for (const auto& layer : spec.layers) {
      kv_heads.push_back(layer.mixer == Mixer::attention ? spec.num_kv_heads : 0);
    }
    keys.add("attention.head_count_kv", GgufValue(GgufArray(kv_heads)));
    keys.add("shortconv.l_cache", spec.conv.taps);
  } else {
    keys.add("attention.head_count_kv", spec.num_kv_heads);
  }
  keys.add("attention.key_length", spec.head_dim);
  keys.add("attention.value_length", spec.head_dim);
  keys.add("attention.layer_norm_rms_epsilon", spec.norm_eps);
}

} // namespace

GgufMetadata gguf_hparams(const DecoderSpec& spec, const GgufArch& arch) {
  Keys keys(arch.name);
  keys.add("block_count", spec.num_layers);
  keys.add("context_length", spec.ropes.front().max_positions);
  keys.add("embedding_length", spec.hidden_size);
  keys.add("vocab_size", spec.vocab_size);
  const auto& moe = spec.moe;
  keys.add("feed_forward_length", spec.intermediate_size > 0 ? spec.intermediate_size : moe.intermediate_size);
  add_heads(spec, keys);
  add_rope(spec, keys);
  add_windows(spec, arch, keys);
  if (arch.delta) {
    add_delta(spec, keys);
  }
  if (moe.num_experts > 0) {
    keys.add("expert_count", moe.num_experts);
    keys.add("expert_used_count", moe.routing.num_chosen);
    keys.add("expert_feed_forward_length", moe.intermediate_size);
    if (moe.shared_intermediate_size > 0) {
      keys.add("expert_shared_feed_forward_length", moe.shared_intermediate_size);
    }
  }
  if (spec.attention_softcap > 0.0F) {
    keys.add("attn_logit_softcapping", spec.attention_softcap);
  }
  if (spec.logit_softcap > 0.0F) {
    keys.add("final_logit_softcapping", spec.logit_softcap);
  }
  if (arch.scales) {
    keys.add("embedding_scale", spec.embedding_scale);
    keys.add("residual_scale", spec.residual_scale);
    keys.add("attention.scale", spec.attention_scale);
    keys.add("logit_scale", 1.0F / spec.logit_scale);
  }
  return keys.take();
}

std::vector<std::pair<std::string, std::vector<float>>> rope_tensors(const DecoderSpec& spec) {
  const auto& rope = spec.ropes.front();
  if (rope.type == RopeType::longrope) {
    return {{"rope_factors_long.weight", rope.long_factors}, {"rope_factors_short.weight", rope.short_factors}};
  }
  if (rope.type != RopeType::llama3) {
    return {};
  }
  // How many times slower each pair of features turns than unstretched ones.
  auto plain = rope;
  plain.type = RopeType::plain;
  auto factors = rope_frequencies(plain, 0);
  const auto stretched = rope_frequencies(rope, 0);
  for (std::size_t k = 0; k < factors.size(); ++k) {
    factors[k] /= stretched[k];
  }
  return {{"rope_freqs.weight", factors}};
}

} // namespace temper
