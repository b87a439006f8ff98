#include "temper/models/tensors.h"

#include <algorithm>
#include <charconv>
#include <set>

#include "temper/base/error.h"

namespace temper {
namespace {

using Tensors = std::vector<std::pair<std::string, mx::Shape>>;

MatrixLayer linear_layer(std::string name, int out, int in, bool bias = false,
                         LayerKind kind = LayerKind::linear, int num_experts = 0) {
  return {std::move(name), kind, out, in, num_experts, bias};
}

void add_attention(const DecoderSpec& s, const std::string& prefix, std::vector<MatrixLayer>& layers) {
  const auto name = prefix + s.names.attention + ".";
  const int q = s.num_heads * s.head_dim;
  const int kv = s.num_kv_heads * s.head_dim;
  if (s.fused_qkv) {
    layers.push_back(linear_layer(name + "qkv_proj", q + 2 * kv, s.hidden_size, s.attention_bias));
  } else {
    layers.push_back(
        linear_layer(name + "q_proj", s.gated_attention ? 2 * q : q, s.hidden_size, s.attention_bias));
    layers.push_back(linear_layer(name + "k_proj", kv, s.hidden_size, s.attention_bias));
    layers.push_back(linear_layer(name + "v_proj", kv, s.hidden_size, s.attention_bias));
  }
  layers.push_back(linear_layer(name + s.names.output, s.hidden_size, q, s.output_bias));
}

void add_mixer(const DecoderSpec& s, Mixer mixer, const std::string& prefix, std::vector<MatrixLayer>& layers) {
  switch (mixer) {
    case Mixer::attention:
      add_attention(s, prefix, layers);
      break;
    case Mixer::short_conv:
      layers.push_back(linear_layer(prefix + "conv.in_proj", 3 * s.hidden_size, s.hidden_size, s.conv.bias));
      layers.push_back(linear_layer(prefix + "conv.out_proj", s.hidden_size, s.hidden_size, s.conv.bias));
      break;
    case Mixer::gated_delta: {
      const auto& d = s.delta;
      const int keys = d.num_key_heads * d.key_dim;
      const int values = d.num_value_heads * d.value_dim;
      const auto name = prefix + "linear_attn.";
      layers.push_back(linear_layer(name + "in_proj_qkv", 2 * keys + values, s.hidden_size));
      layers.push_back(linear_layer(name + "in_proj_z", values, s.hidden_size));
      layers.push_back(linear_layer(name + "in_proj_b", d.num_value_heads, s.hidden_size));
      layers.push_back(linear_layer(name + "in_proj_a", d.num_value_heads, s.hidden_size));
      layers.push_back(linear_layer(name + "out_proj", s.hidden_size, values));
      break;
    }
  }
}

// gate, up and down of width `inner`.
void add_glu(const DecoderSpec& s, const std::string& name, int inner, bool bias, int num_experts,
             std::vector<MatrixLayer>& layers) {
  const auto kind = num_experts > 0 ? LayerKind::experts : LayerKind::linear;
  if (s.fused_gate_up && num_experts == 0) {
    layers.push_back(linear_layer(name + "gate_up_proj", 2 * inner, s.hidden_size, bias));
  } else {
    layers.push_back(linear_layer(name + s.names.gate, inner, s.hidden_size, bias, kind, num_experts));
    layers.push_back(linear_layer(name + s.names.up, inner, s.hidden_size, bias, kind, num_experts));
  }
  layers.push_back(linear_layer(name + s.names.down, s.hidden_size, inner, bias, kind, num_experts));
}

void add_moe(const DecoderSpec& s, const std::string& prefix, std::vector<MatrixLayer>& layers) {
  const auto& m = s.moe;
  const auto name = prefix + m.mlp + ".";
  layers.push_back(linear_layer(name + m.router, m.num_experts, s.hidden_size, m.bias, LayerKind::router));
  add_glu(s, name + m.experts + ".", m.intermediate_size, m.bias, m.num_experts, layers);
  if (m.shared_intermediate_size > 0) {
    add_glu(s, name + "shared_expert.", m.shared_intermediate_size, false, 0, layers);
    layers.push_back(linear_layer(name + "shared_expert_gate", 1, s.hidden_size, false, LayerKind::router));
  }
}

std::vector<MatrixLayer> block_layers(const DecoderSpec& s, int index) {
  const auto& layer = s.layers.at(static_cast<std::size_t>(index));
  const auto prefix = block_prefix(s, index);
  std::vector<MatrixLayer> layers;
  add_mixer(s, layer.mixer, prefix, layers);
  if (layer.moe) {
    add_moe(s, prefix, layers);
  } else {
    add_glu(s, prefix + s.names.mlp + ".", s.intermediate_size, s.mlp_bias, 0, layers);
  }
  return layers;
}

// What a block holds beside its matrices.
void add_block_vectors(const DecoderSpec& s, int index, Tensors& tensors) {
  const auto prefix = block_prefix(s, index);
  for (const auto* norm :
       {&s.names.mixer_norm, &s.names.mixer_post_norm, &s.names.mlp_norm, &s.names.mlp_post_norm}) {
    if (!norm->empty()) {
      tensors.push_back({prefix + *norm + ".weight", {s.hidden_size}});
    }
  }
  const auto mixer = s.layers.at(static_cast<std::size_t>(index)).mixer;
  if (mixer == Mixer::attention) {
    const auto name = prefix + s.names.attention + ".";
    if (s.qk_norm != QkNorm::none) {
      const bool full = s.qk_norm == QkNorm::full;
      tensors.push_back({name + s.names.q_norm + ".weight", {full ? s.num_heads * s.head_dim : s.head_dim}});
      tensors.push_back({name + s.names.k_norm + ".weight", {full ? s.num_kv_heads * s.head_dim : s.head_dim}});
    }
    if (s.sinks) {
      tensors.push_back({name + "sinks", {s.num_heads}});
    }
  } else if (mixer == Mixer::short_conv) {
    tensors.push_back({prefix + "conv.conv.weight", {s.hidden_size, s.conv.taps, 1}});
    if (s.conv.bias) {
      tensors.push_back({prefix + "conv.conv.bias", {s.hidden_size}});
    }
  } else {
    const auto& d = s.delta;
    const int channels = 2 * d.num_key_heads * d.key_dim + d.num_value_heads * d.value_dim;
    const auto name = prefix + "linear_attn.";
    tensors.push_back({name + "conv1d.weight", {channels, d.taps, 1}});
    tensors.push_back({name + "A_log", {d.num_value_heads}});
    tensors.push_back({name + "dt_bias", {d.num_value_heads}});
    tensors.push_back({name + "norm.weight", {d.value_dim}});
  }
}

bool names_layer(const DecoderSpec& spec, const std::string& key, const MatrixLayer& layer) {
  const auto whole = layer_key(spec, layer.name);
  const bool outside = layer.kind == LayerKind::embedding || layer.kind == LayerKind::head;
  return key == whole || (outside && whole.ends_with("." + key));
}

bool selects(const DecoderSpec& spec, const std::vector<std::string>& keys, const MatrixLayer& layer) {
  if (keys.empty()) {
    return layer.kind == LayerKind::linear || layer.kind == LayerKind::experts;
  }
  return std::any_of(keys.begin(), keys.end(), [&](const auto& key) { return names_layer(spec, key, layer); });
}

void check_keys(const DecoderSpec& spec, const std::vector<std::string>& keys, const std::string& setting) {
  const auto layers = matrix_layers(spec);
  for (const auto& key : keys) {
    if (std::any_of(layers.begin(), layers.end(),
                    [&](const auto& layer) { return names_layer(spec, key, layer); })) {
      continue;
    }
    std::set<std::string> seen;
    std::string choices;
    for (const auto& layer : layers) {
      if (const auto name = layer_key(spec, layer.name); seen.insert(name).second) {
        choices += (choices.empty() ? "" : ", ") + name;
      }
    }
    throw ConfigError(setting + ": " + key + " matches no layer of this model; choose from " + choices);
  }
}

} // namespace

mx::Shape MatrixLayer::weight_shape() const {
  return num_experts > 0 ? mx::Shape{num_experts, out_features, in_features}
                         : mx::Shape{out_features, in_features};
}

std::string block_prefix(const DecoderSpec& spec, int layer) {
  return spec.prefix + "layers." + std::to_string(layer) + ".";
}

std::optional<int> block_of(const DecoderSpec& spec, const std::string& tensor) {
  const auto prefix = spec.prefix + "layers.";
  if (!tensor.starts_with(prefix)) {
    return std::nullopt;
  }
  int block = 0;
  const auto* begin = tensor.data() + prefix.size();
  const auto [end, error] = std::from_chars(begin, tensor.data() + tensor.size(), block);
  return error == std::errc() && end != begin ? std::optional(block) : std::nullopt;
}

std::string layer_key(const DecoderSpec& spec, const std::string& layer) {
  const auto block = block_of(spec, layer);
  return block ? layer.substr(block_prefix(spec, *block).size()) : layer;
}

std::vector<MatrixLayer> matrix_layers(const DecoderSpec& spec) {
  std::vector<MatrixLayer> layers{linear_layer(spec.prefix + "embed_tokens", spec.vocab_size, spec.hidden_size,
                                               false, LayerKind::embedding)};
  for (int i = 0; i < spec.num_layers; ++i) {
    auto block = block_layers(spec, i);
    layers.insert(layers.end(), std::make_move_iterator(block.begin()), std::make_move_iterator(block.end()));
  }
  if (!spec.tied_head) {
    layers.push_back(linear_layer(spec.head, spec.vocab_size, spec.hidden_size, false, LayerKind::head));
  }
  return layers;
}

Tensors expected_tensors(const DecoderSpec& spec) {
  Tensors tensors{{spec.prefix + spec.final_norm + ".weight", {spec.hidden_size}}};
  for (int i = 0; i < spec.num_layers; ++i) {
    add_block_vectors(spec, i, tensors);
  }
  for (const auto& layer : matrix_layers(spec)) {
    tensors.push_back({layer.name + ".weight", layer.weight_shape()});
    if (layer.bias) {
      auto shape = layer.weight_shape();
      shape.pop_back();
      tensors.push_back({layer.name + ".bias", shape});
    }
  }
  return tensors;
}

std::int64_t num_parameters(const DecoderSpec& spec) {
  std::int64_t total = 0;
  for (const auto& [name, shape] : expected_tensors(spec)) {
    std::int64_t elements = 1;
    for (const auto dim : shape) {
      elements *= dim;
    }
    total += elements;
  }
  return total;
}

int first_trained_block(const DecoderSpec& spec, int num_layers) {
  return num_layers < 0 ? 0 : spec.num_layers - num_layers;
}

std::vector<MatrixLayer> adaptable_layers(const DecoderSpec& spec, int num_layers,
                                          const std::vector<std::string>& keys, const std::string& setting) {
  check_keys(spec, keys, setting);
  if (num_layers > spec.num_layers) {
    throw ConfigError("num_layers: " + std::to_string(num_layers) + " asked for, but the model has " +
                      std::to_string(spec.num_layers) + " layers; -1 means all");
  }
  const int first = first_trained_block(spec, num_layers);
  std::vector<MatrixLayer> layers;
  for (auto& layer : matrix_layers(spec)) {
    if (block_of(spec, layer.name).value_or(first) >= first && selects(spec, keys, layer)) {
      layers.push_back(std::move(layer));
    }
  }
  return layers;
}

} // namespace temper
