#include "temper/io/convert_adapter.h"

#include <algorithm>
#include <set>

#include "temper/base/draft_folder.h"
#include "temper/base/error.h"
#include "temper/io/combine_adapters.h"
#include "temper/io/model_folder.h"
#include "temper/io/peft.h"
#include "temper/models/adapter_params.h"
#include "temper/models/merge_adapter.h"
#include "temper/models/tensors.h"

namespace temper {
namespace {

bool has_whole_tensors(const Adapter& adapter) {
  return std::any_of(adapter.params.begin(), adapter.params.end(),
                     [](const auto& entry) { return !is_adapter_tensor(entry.first); });
}

// Every tensor that the adapter touches, merged: mlx-lm's "full".
Adapter as_whole_weights(const ConvertAdapterOptions& options, const Adapter& adapter) {
  const auto base = open_model(options.weights());
  Params touched;
  for (const auto& [name, array] : adapter.params) {
    const auto layer = name.substr(0, name.rfind('.'));
    const auto tensor = is_adapter_tensor(name) ? layer + ".weight" : name;
    if (base.packed.contains(layer)) {
      throw ModelError(
          options.model.string() + ": " + layer + " is quantized, and mlx-lm puts no whole weights in " +
          "the place of quantized ones, nor reads tensors trained whole beside factors; fuse the " +
          "adapter into the model (temper fuse)");
    }
    touched.insert_or_assign(tensor, mx::astype(base.params.at(tensor), mx::float32));
  }
  return {"full", -1, {}, merge_adapter(base.spec, touched, adapter.lora, adapter.params)};
}

// The layers as mlx-lm's keys name them, and the first block that has one.
std::pair<std::vector<std::string>, int> keys_of(const Adapter& adapter, const DecoderSpec& spec) {
  std::set<std::string> keys;
  int first = spec.num_layers;
  for (const auto& [name, array] : adapter.params) {
    if (name.ends_with(".lora_a")) {
      const auto layer = name.substr(0, name.rfind('.'));
      keys.insert(layer_key(spec, layer));
      first = std::min(first, block_of(spec, layer).value_or(first));
    }
  }
  return {{keys.begin(), keys.end()}, first};
}

Adapter save_mlx_lm(const ConvertAdapterOptions& options, const Adapter& adapter, const DecoderSpec& spec,
                    const std::filesystem::path& folder) {
  const bool whole = adapter.fine_tune_type != "full" && has_whole_tensors(adapter);
  auto written = whole ? as_whole_weights(options, adapter) : uniform_adapter(adapter);
  const auto [keys, first] = keys_of(written, spec);
  save_adapter_params(folder, "adapters.safetensors", written.params, written.lora);
  // mlx-lm takes 0 for all blocks too: keys that lie outside of them match by themselves.
  save_adapter_config(folder, written.fine_tune_type, spec.num_layers - first, written.lora, keys,
                      {{"model", options.base_model}});
  return written;
}

ConvertAdapterReport describe(const Adapter& adapter) {
  ConvertAdapterReport report{adapter.fine_tune_type};
  for (const auto& [name, array] : adapter.params) {
    report.layers += name.ends_with(".lora_a") ? 1 : 0;
    report.whole_tensors += is_adapter_tensor(name) ? 0 : 1;
    if (name.ends_with(".lora_a")) {
      report.rank = std::max(report.rank, adapter.lora.of(name.substr(0, name.rfind('.'))).rank);
    }
  }
  return report;
}

} // namespace

ConvertAdapterReport convert_adapter(const ConvertAdapterOptions& options) {
  DraftFolder draft(options.out);
  const auto spec = load_spec(options.model);
  std::vector<WeightedAdapter> parts;
  parts.reserve(options.sources.size());
  for (const auto& source : options.sources) {
    parts.push_back({load_adapter(source.path, spec), static_cast<float>(source.weight), source.path.string()});
    options.progress();
  }
  auto adapter = combine_adapters(parts, spec);
  if (options.rank && adapter.fine_tune_type == "full") {
    throw ConfigError("--rank: " + parts.front().name + " is a model trained whole, which has no rank");
  }
  std::optional<double> lost;
  if (options.rank) {
    lost = lower_ranks(adapter, spec, *options.rank, options.progress);
  }
  mx::eval(values(adapter.params));
  options.progress();
  auto written = adapter;
  if (options.format == AdapterFormat::peft) {
    save_peft_adapter(draft.path(), adapter, spec, options.base_model);
  } else {
    written = save_mlx_lm(options, adapter, spec, draft.path());
  }
  options.progress();
  draft.publish();
  auto report = describe(written);
  report.lost = lost;
  return report;
}

} // namespace temper
