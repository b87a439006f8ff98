#include "temper/models/adapter_params.h"

#include "temper/nn/moe.h"

namespace temper {

std::map<std::string, mx::Shape> adapter_shapes(const LoraConfig& config,
                                                const std::vector<MatrixLayer>& layers) {
  std::map<std::string, mx::Shape> shapes;
  for (const auto& layer : layers) {
    if (layer.num_experts > 0) {
      shapes[layer.name + ".lora_a"] = {layer.num_experts, config.rank, layer.in_features};
      shapes[layer.name + ".lora_b"] = {layer.num_experts, layer.out_features, config.rank};
    } else {
      shapes[layer.name + ".lora_a"] = {layer.in_features, config.rank};
      shapes[layer.name + ".lora_b"] = {config.rank, layer.out_features};
    }
  }
  return shapes;
}

Params init_adapter(const LoraConfig& config, const std::vector<MatrixLayer>& layers, std::uint64_t seed) {
  std::vector<std::pair<std::string, mx::Shape>> linears;
  std::vector<std::pair<std::string, mx::Shape>> experts;
  for (const auto& layer : layers) {
    (layer.num_experts > 0 ? experts : linears).push_back({layer.name, layer.weight_shape()});
  }
  auto params = init_lora(config, linears, seed);
  params.merge(init_expert_lora(config, experts, seed));
  return params;
}

} // namespace temper
