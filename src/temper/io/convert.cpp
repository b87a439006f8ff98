#include "temper/io/convert.h"

#include <algorithm>

#include "temper/base/draft_folder.h"
#include "temper/base/error.h"
#include "temper/nn/linear.h"
#include "temper/quant/packed.h"
#include "temper/quant/quant_config.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

double bits_a_weight(std::int64_t bytes, std::int64_t parameters) {
  return 8.0 * static_cast<double>(bytes) / static_cast<double>(parameters);
}

std::optional<mx::Dtype> target_dtype(const ConvertOptions& options, const Json& config) {
  if (options.dtype != "auto") {
    return dtype_from_name(options.dtype);
  }
  return stated_dtype(config);
}

// Dense weights in place of packed ones.
void unpack_all(Model& model, std::optional<mx::Dtype> dtype) {
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

void cast_all(Model& model, mx::Dtype dtype) {
  for (auto& [name, array] : model.params) {
    if (!is_packed_part(model, name) && !keeps_dtype(name)) {
      array = mx::astype(array, dtype);
    }
  }
}

void pack(Model& model, const std::map<std::string, QuantFormat>& plan) {
  const auto before = model.packed.size();
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
  if (!plan.empty() && model.packed.size() == before) {
    throw ConfigError(model.path.string() +
                      ": every layer is quantized already; add --dequantize to pack them anew, at a loss");
  }
}

// `base` for most, the others by name; what is left dense is known by its tensors, as in mlx-lm.
QuantConfig quant_config_of(const Model& model, const std::optional<QuantFormat>& base) {
  if (model.packed.empty()) {
    return {};
  }
  QuantConfig config{base.value_or(model.packed.begin()->second), {}};
  for (const auto& [layer, format] : model.packed) {
    if (format != config.base) {
      config.layers[layer] = format;
    }
  }
  return config;
}

} // namespace

double ConvertReport::bits_before() const {
  return bits_a_weight(bytes_before, parameters);
}

double ConvertReport::bits_after() const {
  return bits_a_weight(bytes_after, parameters);
}

ConvertReport convert_model(const ConvertOptions& options) {
  DraftFolder draft(options.out);
  const auto spec = load_spec(options.model);
  const auto plan =
      options.quantize ? plan_quantization(spec, *options.quantize) : std::map<std::string, QuantFormat>{};
  auto model = open_model(options.model);
  ConvertReport report;
  report.parameters = num_parameters(spec);
  report.bytes_before = num_bytes(model.params);
  const auto stated = read_quant_config(model.config, options.model.string()).base;
  const auto dtype = target_dtype(options, model.config);
  if (options.dequantize) {
    unpack_all(model, dtype);
  }
  if (dtype) {
    cast_all(model, *dtype);
  }
  pack(model, plan);
  const auto asked = options.quantize ? std::optional(base_format(*options.quantize)) : std::nullopt;
  const auto quantization = quant_config_of(model, stated && !options.dequantize ? stated : asked);
  set_weights(model.config, quantization, dtype);
  report.quantization = to_json(quantization);
  report.bytes_after = num_bytes(model.params);

  save_folder(draft.path(), model.config, std::move(model.params), report.parameters, options.model,
              options.progress);
  draft.publish();
  return report;
}

} // namespace temper
