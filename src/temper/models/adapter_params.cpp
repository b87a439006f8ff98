#include "temper/models/adapter_params.h"

#include "temper/base/error.h"
#include "temper/nn/linear.h"
#include "temper/nn/moe.h"

namespace temper {
namespace {

// A layer's shape as init_lora() counts it, [O, I]: an embedding goes from its vocabulary to its features.
mx::Shape factor_shape(const MatrixLayer& layer) {
  if (layer.kind == LayerKind::embedding) {
    return {layer.in_features, layer.out_features};
  }
  return layer.weight_shape();
}

} // namespace

void check_dora(const MatrixLayer& layer) {
  if (layer.num_experts > 0) {
    throw ConfigError("fine_tune_type dora: " + layer.name +
                      " is a stack of experts, which DoRA does not serve; use lora, or name other layers in "
                      "lora_parameters.keys");
  }
}

bool is_adapter_tensor(const std::string& tensor) {
  return tensor.ends_with(".lora_a") || tensor.ends_with(".lora_b") || tensor.ends_with(".m");
}

std::map<std::string, mx::Shape> adapter_shapes(const LoraConfig& config,
                                                const std::vector<MatrixLayer>& layers) {
  std::map<std::string, mx::Shape> shapes;
  for (const auto& layer : layers) {
    const int rank = config.of(layer.name).rank;
    if (layer.num_experts > 0) {
      shapes[layer.name + ".lora_a"] = {layer.num_experts, rank, layer.in_features};
      shapes[layer.name + ".lora_b"] = {layer.num_experts, layer.out_features, rank};
    } else {
      const auto shape = factor_shape(layer);
      shapes[layer.name + ".lora_a"] = {shape[1], rank};
      shapes[layer.name + ".lora_b"] = {rank, shape[0]};
    }
    if (config.dora && layer.num_experts == 0) {
      shapes[layer.name + ".m"] = {layer.out_features};
    }
  }
  return shapes;
}

Params weight_norms(const Params& model, const std::vector<MatrixLayer>& layers) {
  Params norms;
  for (const auto& layer : layers) {
    const auto weight = dense_weight(ParamView(model), layer.name, layer.in_features, mx::float32);
    const auto it = norms.emplace(layer.name + ".weight_norm", row_norms(weight)).first;
    mx::eval(it->second);
  }
  return norms;
}

Params init_adapter(const LoraConfig& config, const std::vector<MatrixLayer>& layers, std::uint64_t seed,
                    const Params& norms) {
  std::vector<std::pair<std::string, mx::Shape>> matrices;
  std::vector<std::pair<std::string, mx::Shape>> experts;
  Params magnitudes;
  for (const auto& layer : layers) {
    (layer.num_experts > 0 ? experts : matrices).push_back({layer.name, factor_shape(layer)});
    if (config.dora) {
      check_dora(layer);
      magnitudes.emplace(layer.name + ".m", norms.at(layer.name + ".weight_norm"));
    }
  }
  auto params = init_lora(config, matrices, seed);
  params.merge(init_expert_lora(config, experts, seed));
  params.merge(magnitudes);
  return params;
}

bool computes_in_fp32(const std::string& name) {
  return name.ends_with(".m");
}

Params forward_params(const Params& trained, mx::Dtype dtype) {
  Params result;
  for (const auto& [name, array] : trained) {
    result.emplace_hint(result.end(), name, computes_in_fp32(name) ? array : mx::astype(array, dtype));
  }
  return result;
}

Params fixed_dora_scales(const DecoderSpec& spec, const Params& model, const LoraConfig& config,
                         const Params& adapter, mx::Dtype dtype) {
  Params scales;
  for (const auto& layer : matrix_layers(spec)) {
    const bool embeds = layer.kind == LayerKind::embedding;
    if (!adapter.contains(layer.name + ".m") || (embeds && !spec.tied_head)) {
      continue;
    }
    const auto& a = adapter.at(layer.name + ".lora_a");
    const auto& b = adapter.at(layer.name + ".lora_b");
    const auto pair = pair_of(a, b, embeds);
    const auto scale =
        dora_scale(ParamView(model, &adapter), layer.name, pair, config.of(layer.name).scale, dtype);
    const auto it = scales.emplace(layer.name + ".dora_scale", scale).first;
    mx::eval(it->second);
  }
  return scales;
}

} // namespace temper
