#include "temper/quant/quant_config.h"

#include "temper/base/error.h"

namespace temper {
namespace {

[[noreturn]] void fail(const std::string& origin, const std::string& what) {
  throw ModelError(origin + ": " + what);
}

std::optional<int> read_number(const Json& object, const char* key, const std::string& origin) {
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) {
    return std::nullopt;
  }
  if (!it->is_number_integer()) {
    fail(origin, std::string(key) + " must be a whole number");
  }
  return it->get<int>();
}

QuantFormat read_format(const Json& object, const std::string& origin) {
  const auto mode = object.find("mode");
  if (mode != object.end() && !mode->is_string()) {
    fail(origin, "mode must be text");
  }
  if (object.contains("global_scale") && object["global_scale"] != Json(false)) {
    fail(origin, "global_scale is not supported; take the unquantized model");
  }
  try {
    return make_quant_format(mode == object.end() ? "affine" : mode->get<std::string>(),
                             read_number(object, "bits", origin), read_number(object, "group_size", origin));
  } catch (const ConfigError& error) {
    fail(origin, error.what());
  }
}

// "quantization" is mlx-lm's, "quantization_config" a copy of it or another tool's; a model within a model
// may carry its own.
const Json* find_description(const Json& config, const char*& key) {
  for (const char* name : {"quantization", "quantization_config"}) {
    if (const auto it = config.find(name); it != config.end() && !it->is_null()) {
      key = name;
      return &*it;
    }
  }
  const auto text = config.find("text_config");
  return text != config.end() && text->is_object() ? find_description(*text, key) : nullptr;
}

// What transformers calls by a method is packed by another tool, in a layout of its own. gpt-oss' mxfp4 is
// MLX's, but for names that its family maps.
QuantConfig read_method(const Json& description, const std::string& origin) {
  const auto& method = description["quant_method"];
  if (method == Json("mxfp4")) {
    return {make_quant_format("mxfp4"), {}};
  }
  fail(origin, "quant_method " + (method.is_string() ? method.get<std::string>() : dump(method)) +
                   " is not supported; take the unquantized model (and quantize it by `temper convert`) or one "
                   "in mlx-lm's format");
}

Json format_json(const QuantFormat& format) {
  return {{"group_size", format.group_size}, {"bits", format.bits}, {"mode", format.mode}};
}

} // namespace

QuantConfig read_quant_config(const Json& config, const std::string& origin) {
  const char* key = "";
  const auto* description = find_description(config, key);
  if (description == nullptr) {
    return {};
  }
  const auto where = origin + ": " + key;
  if (!description->is_object()) {
    fail(where, "must be an object");
  }
  if (description->contains("quant_method") && std::string(key) == "quantization_config") {
    return read_method(*description, where);
  }
  QuantConfig read{read_format(*description, where), {}};
  for (const auto& [layer, value] : description->items()) {
    if (value.is_object()) {
      read.layers[layer] = read_format(value, where + ": " + layer);
    } else if (value.is_boolean()) {
      read.layers[layer] = value.get<bool>() ? read.base : std::nullopt;
    }
  }
  return read;
}

Json to_json(const QuantConfig& config) {
  if (!config.base) {
    return nullptr;
  }
  auto json = format_json(*config.base);
  for (const auto& [layer, format] : config.layers) {
    json[layer] = format ? format_json(*format) : Json(false);
  }
  return json;
}

} // namespace temper
