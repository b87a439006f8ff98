#include "temper/models/merge_adapter.h"

#include <optional>

#include "temper/base/error.h"
#include "temper/models/adapter_params.h"
#include "temper/nn/moe.h"

namespace temper {
namespace {

mx::array merged_weight(const MatrixLayer& layer, const LoraConfig& lora, const mx::array& weight,
                        const Params& adapter) {
  const auto& a = adapter.at(layer.name + ".lora_a");
  const auto& b = adapter.at(layer.name + ".lora_b");
  const auto own = lora.of(layer.name);
  if (layer.num_experts > 0) {
    return merge_expert_lora(own, a, b, weight);
  }
  const auto m = adapter.find(layer.name + ".m");
  const auto magnitude = m == adapter.end() ? std::nullopt : std::optional(m->second);
  return merge_lora(own, pair_of(a, b, layer.kind == LayerKind::embedding), weight, magnitude);
}

} // namespace

Params merge_adapter(const DecoderSpec& spec, Params params, const LoraConfig& lora, const Params& adapter) {
  for (const auto& [name, array] : adapter) {
    if (is_adapter_tensor(name)) {
      continue;
    }
    const auto it = params.find(name);
    if (it == params.end()) {
      throw ModelError("this model has no tensor " + name + ", which the adapter brings");
    }
    it->second = mx::astype(array, it->second.dtype());
  }
  for (const auto& layer : matrix_layers(spec)) {
    if (adapter.contains(layer.name + ".lora_a")) {
      auto& weight = params.at(layer.name + ".weight");
      weight = merged_weight(layer, lora, weight, adapter);
    }
  }
  return params;
}

} // namespace temper
