#include "temper/io/pack_model.h"

#include "temper/models/tensors.h"
#include "temper/nn/linear.h"

namespace temper {

void pack_model(Model& model, const std::map<std::string, QuantFormat>& plan) {
  for (const auto& [layer, format] : plan) {
    if (model.packed.contains(layer)) {
      continue;
    }
    auto& weight = model.params.at(layer + ".weight");
    const auto parts = quantize(weight, format, layer);
    weight = parts.weight;
    model.params.insert_or_assign(layer + ".scales", parts.scales);
    if (parts.biases) {
      model.params.insert_or_assign(layer + ".biases", *parts.biases);
    }
    model.packed.emplace(layer, format);
  }
}

void unpack_model(Model& model, std::optional<mx::Dtype> dtype) {
  for (const auto& layer : matrix_layers(model.spec)) {
    if (model.packed.contains(layer.name)) {
      auto& weight = model.params.at(layer.name + ".weight");
      const auto& scales = model.params.at(layer.name + ".scales");
      const auto stored = mx::issubdtype(scales.dtype(), mx::floating) ? scales.dtype() : mx::bfloat16;
      weight = dense_weight(ParamView(model.params), layer.name, layer.in_features, dtype.value_or(stored));
      model.params.erase(layer.name + ".scales");
      model.params.erase(layer.name + ".biases");
    }
  }
  model.packed.clear();
}

} // namespace temper
