#include "temper/io/convert.h"

#include <algorithm>

#include "temper/base/draft_folder.h"
#include "temper/base/error.h"
#include "temper/io/pack_model.h"
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

void cast_all(Model& model, mx::Dtype dtype) {
  for (auto& [name, array] : model.params) {
    if (!is_packed_part(model, name) && !keeps_dtype(name)) {
      array = mx::astype(array, dtype);
    }
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
    unpack_model(model, dtype);
  }
  if (dtype) {
    cast_all(model, *dtype);
  }
  const auto packed_before = model.packed.size();
  pack_model(model, plan);
  if (!plan.empty() && model.packed.size() == packed_before) {
    throw ConfigError(options.model.string() +
                      ": every layer is quantized already; add --dequantize to pack them anew, at a loss");
  }
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
