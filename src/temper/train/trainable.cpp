#include "temper/train/trainable.h"

#include <algorithm>
#include <set>

#include "temper/base/error.h"
#include "temper/models/adapter_params.h"
#include "temper/nn/linear.h"
#include "temper/nn/pissa.h"
#include "temper/nn/random.h"
#include "temper/quant/quant_config.h"

namespace temper {
namespace {

bool is_full(const RunConfig& config) {
  return config.fine_tune_type == "full";
}

std::vector<MatrixLayer> adapted_layers(const RunConfig& config, const DecoderSpec& spec) {
  const auto layers = adaptable_layers(spec, config.num_layers, config.lora_parameters.keys);
  return is_full(config) ? std::vector<MatrixLayer>{} : layers;
}

LoraConfig lora_config(const RunConfig& config, const std::vector<MatrixLayer>& layers) {
  const auto& parameters = config.lora_parameters;
  LoraConfig lora{parameters.rank, static_cast<float>(parameters.layer_scale()),
                  static_cast<float>(parameters.dropout), config.fine_tune_type == "dora"};
  const auto rules = parameters.layer_rules();
  std::set<const LoraLayerRule*> used;
  for (const auto& layer : layers) {
    if (const auto* rule = rule_of(rules, layer.name)) {
      const auto own = parameters.with(*rule);
      lora.layers[layer.name] = {own.rank, static_cast<float>(own.layer_scale())};
      used.insert(rule);
    }
  }
  for (const auto& rule : rules) {
    if (!used.contains(&rule)) {
      throw ConfigError("lora_parameters.layers: '" + rule.match +
                        "' fits no adapted layer that an earlier one left" +
                        (layers.empty() ? "" : ", such as " + layers.front().name));
    }
  }
  return lora;
}

// ---- Weights that train as a whole

bool is_norm(const std::string& name, const mx::Shape& shape) {
  return shape.size() == 1 && name.ends_with(".weight");
}

// By name, the tensors that train beside an adapter. `layers` are adapted.
std::set<std::string> tensors_beside(const RunConfig& config, const DecoderSpec& spec,
                                     const std::vector<MatrixLayer>& layers) {
  std::set<std::string> names;
  if (!config.trainable_modules.empty()) {
    for (const auto& layer :
         adaptable_layers(spec, config.num_layers, config.trainable_modules, "trainable_modules")) {
      if (std::any_of(layers.begin(), layers.end(),
                      [&](const auto& other) { return other.name == layer.name; })) {
        throw ConfigError("trainable_modules: " + layer.name +
                          " is also adapted by lora_parameters.keys; a layer is trained one way");
      }
      names.insert(layer.name + ".weight");
      names.insert(layer.name + ".bias");
    }
  }
  std::set<std::string> routers;
  for (const auto& layer : matrix_layers(spec)) {
    if (layer.kind == LayerKind::router) {
      routers.insert(layer.name + ".bias");
    }
  }
  const int first = first_trained_block(spec, config.num_layers);
  for (const auto& [name, shape] : expected_tensors(spec)) {
    const bool wanted = (config.train_norms && is_norm(name, shape)) ||
                        (config.train_biases && name.ends_with(".bias") && !routers.contains(name));
    if (wanted && block_of(spec, name).value_or(first) >= first) {
      names.insert(name);
    }
  }
  return names;
}

bool trains_whole(const RunConfig& config, const DecoderSpec& spec, const std::string& name,
                  const std::set<std::string>& beside) {
  if (!is_full(config)) {
    return beside.contains(name);
  }
  const int first = first_trained_block(spec, config.num_layers);
  // mlx-lm leaves what is outside the blocks alone even when it trains all of them.
  const bool beyond_blocks = config.num_layers < 0 && config.compat != "mlx-lm";
  const auto block = block_of(spec, name);
  return beside.contains(name) || (block ? *block >= first : beyond_blocks);
}

// The model's own weights as fp32 masters; a packed one is unpacked, and the dense one shadows it.
Params whole_weights(const RunConfig& config, const Model& model, const std::set<std::string>& beside) {
  const auto layers = matrix_layers(model.spec);
  Params masters;
  for (const auto& [name, array] : model.params) {
    if (!trains_whole(config, model.spec, name, beside)) {
      continue;
    }
    if (mx::issubdtype(array.dtype(), mx::floating)) {
      masters.emplace(name, mx::astype(array, mx::float32));
      continue;
    }
    const auto layer = name.substr(0, name.size() - std::string(".weight").size());
    const auto found =
        std::find_if(layers.begin(), layers.end(), [&](const auto& it) { return it.name == layer; });
    if (found != layers.end()) {
      masters.emplace(name, dense_weight(ParamView(model.params), layer, found->in_features, mx::float32));
    }
  }
  return masters;
}

// Steps of training are far smaller than those between packed values.
void refuse_full_training_of_packed(const RunConfig& config, const Json& description) {
  const auto quantization = read_quant_config(description, config.model);
  if (is_full(config) && quantization.base) {
    throw ConfigError("fine_tune_type: full needs unquantized weights, and those of " + config.model +
                      " are (" + describe(*quantization.base) +
                      "); train with lora, or unpack them first: temper convert "
                      "--dequantize --model " +
                      config.model + " --out DIR");
  }
}

// ---- Adapters

void check_pissa(const MatrixLayer& layer) {
  if (layer.kind != LayerKind::linear && layer.kind != LayerKind::head) {
    throw ConfigError("lora_parameters.init pissa serves linear layers, and " + layer.name +
                      " is none; name others in lora_parameters.keys");
  }
}

// The factors alone; the base weights are as they were.
Params pissa_start(const RunConfig& config, const LoraConfig& lora, const Model& model,
                   const std::vector<MatrixLayer>& layers) {
  const auto iterations = config.lora_parameters.pissa_iterations();
  Params factors;
  for (const auto& layer : layers) {
    check_pissa(layer);
    if (model.params.contains(layer.name + ".scales")) {
      throw ConfigError(
          "lora_parameters.init pissa: " + layer.name +
          " is quantized, and what PiSSA leaves of it would not be; use a model that is not quantized");
    }
    const auto own = lora.of(layer.name);
    const auto pair = pissa_factors(model.params.at(layer.name + ".weight"), own.rank, own.scale, iterations,
                                    named_key(config.seed, layer.name));
    factors.emplace(layer.name + ".lora_a", pair.a);
    factors.emplace(layer.name + ".lora_b", pair.b);
  }
  return factors;
}

Params zeros_like(const Params& params) {
  Params zeros;
  for (const auto& [name, array] : params) {
    zeros.emplace(name, mx::zeros_like(array));
  }
  return zeros;
}

void add_adapter(const RunConfig& config, Model& model, Method& method) {
  if (method.lora.dora) {
    const auto norms = weight_norms(model.params, method.layers);
    method.trainable.merge(init_adapter(method.lora, method.layers, config.seed, norms));
    model.params.insert(norms.begin(), norms.end());
    return;
  }
  auto factors = init_adapter(method.lora, method.layers, config.seed);
  if (config.lora_parameters.is_pissa()) {
    method.start =
        config.resume.empty() ? pissa_start(config, method.lora, model, method.layers) : zeros_like(factors);
    factors = method.start;
  }
  method.trainable.merge(factors);
}

} // namespace

void check_method(const RunConfig& config, const DecoderSpec& spec, const Json& description) {
  refuse_full_training_of_packed(config, description);
  const auto layers = adapted_layers(config, spec);
  lora_config(config, layers);
  tensors_beside(config, spec, layers);
  for (const auto& layer : layers) {
    if (config.fine_tune_type == "dora") {
      check_dora(layer);
    }
    if (config.lora_parameters.is_pissa()) {
      check_pissa(layer);
    }
  }
}

Method make_method(const RunConfig& config, Model& model) {
  Method method;
  method.layers = adapted_layers(config, model.spec);
  method.lora = lora_config(config, method.layers);
  for (const auto& layer : method.layers) {
    const auto key = layer_key(model.spec, layer.name);
    if (std::find(method.keys.begin(), method.keys.end(), key) == method.keys.end()) {
      method.keys.push_back(key);
    }
  }
  method.trainable = whole_weights(config, model, tensors_beside(config, model.spec, method.layers));
  if (!is_full(config)) {
    add_adapter(config, model, method);
  }
  mx::eval(values(method.trainable));
  return method;
}

void split_off_start(Model& model, const LoraConfig& lora, const Params& start) {
  const std::string suffix = ".lora_a";
  for (const auto& [name, a] : start) {
    if (!name.ends_with(suffix)) {
      continue;
    }
    const auto layer = name.substr(0, name.size() - suffix.size());
    auto own = lora.of(layer);
    own.scale = -own.scale;
    auto& weight = model.params.at(layer + ".weight");
    weight = merge_lora(own, {a, start.at(layer + ".lora_b")}, weight);
    mx::eval(weight);
  }
}

Params portable_params(const Params& trainable, const Params& start) {
  auto params = trainable;
  for (const auto& [name, array] : start) {
    auto& trained = params.at(name);
    trained = name.ends_with(".lora_a") ? mx::concatenate({trained, array}, 1)
                                        : mx::concatenate({trained, mx::negative(array)}, 0);
  }
  return params;
}

LoraConfig portable_config(const LoraConfig& lora, const Params& start) {
  auto result = lora;
  if (!start.empty()) {
    result.rank *= 2;
    for (auto& [name, own] : result.layers) {
      own.rank *= 2;
    }
  }
  return result;
}

std::vector<ParameterGroup> method_groups(const RunConfig& config) {
  auto groups = read_parameter_groups(config.parameter_groups);
  if (const auto ratio = config.lora_parameters.lr_ratio) {
    groups.push_back({"*.lora_b", *ratio});
  }
  return groups;
}

} // namespace temper
