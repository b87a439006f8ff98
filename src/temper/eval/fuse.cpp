#include "temper/eval/fuse.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "temper/base/draft_folder.h"
#include "temper/base/error.h"
#include "temper/base/log.h"
#include "temper/infer/model_view.h"
#include "temper/io/pack_model.h"
#include "temper/models/adapter_params.h"
#include "temper/models/merge_adapter.h"
#include "temper/models/registry.h"
#include "temper/quant/quant_config.h"
#include "temper/text/tokenizer.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

using Texts = std::vector<std::vector<std::int32_t>>; // token ids

Texts sampled_tokens(const FuseOptions& options, const DecoderSpec& spec) {
  const auto tokenizer = Tokenizer::load(options.model);
  Texts texts;
  std::size_t left = kMostSampleTokens;
  for (const auto& text : options.texts.empty() ? sample_texts() : options.texts) {
    auto ids = tokenizer->encode(text, true);
    ids.resize(std::min(ids.size(), left));
    left -= ids.size();
    for (const auto id : ids) {
      if (id >= spec.vocab_size) {
        throw ModelError(options.model.string() + ": the tokenizer gives id " + std::to_string(id) +
                         ", the model has " + std::to_string(spec.vocab_size) + " tokens");
      }
    }
    if (!ids.empty()) {
      texts.push_back(std::move(ids));
    }
  }
  if (texts.empty()) {
    throw ConfigError("--text: holds no token to compare models on");
  }
  return texts;
}

// [T, V] of each text, fp32, evaluated.
std::vector<mx::array> logits_of(const ModelView& model, const Texts& texts) {
  std::vector<mx::array> all;
  for (const auto& ids : texts) {
    ForwardContext context{model.params, model.lora, {}};
    const mx::array tokens(ids.begin(), {1, static_cast<int>(ids.size())}, mx::int32);
    const auto hidden = decoder_hidden(*model.spec, context, {.tokens_BT = tokens});
    all.push_back(mx::astype(decoder_logits(*model.spec, context, mx::squeeze(hidden, 0)), mx::float32));
    mx::eval(all.back());
  }
  return all;
}

struct Distance {
  LogitDifference difference;
  double norm = 0;
};

Distance distance(const std::vector<mx::array>& a, const std::vector<mx::array>& b) {
  Distance found;
  double sum = 0;
  double squares = 0;
  double count = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const auto apart = mx::abs(a[i] - b[i]);
    const double largest = mx::max(apart).item<float>();
    // A maximum of comparisons would pass over a NaN.
    found.difference.largest = std::isnan(largest) ? largest : std::max(found.difference.largest, largest);
    sum += mx::sum(apart).item<float>();
    squares += mx::sum(mx::square(apart)).item<float>();
    count += static_cast<double>(apart.size());
  }
  found.difference.mean = sum / count;
  found.norm = std::sqrt(squares);
  return found;
}

struct Sampled {
  Texts texts;
  std::vector<mx::array> base;
  std::vector<mx::array> tuned;
};

// `adapter` is left as it was loaded.
Sampled sample_base(const FuseOptions& options, Adapter adapter) {
  Sampled sampled;
  const auto model = load_model(options.model, options.compute_dtype);
  sampled.texts = sampled_tokens(options, model.spec);
  make_ready(adapter, model);
  sampled.base = logits_of(ModelView(model), sampled.texts);
  sampled.tuned = logits_of(ModelView(model, adapter), sampled.texts);
  return sampled;
}

// What the weights of a layer are stored in, or were before they were packed.
mx::Dtype layer_dtype(const Model& base, const std::string& layer) {
  const auto scales = base.params.find(layer + ".scales");
  if (scales == base.params.end()) {
    return base.params.at(layer + ".weight").dtype();
  }
  if (mx::issubdtype(scales->second.dtype(), mx::floating)) {
    return scales->second.dtype();
  }
  return stated_dtype(base.config).value_or(mx::bfloat16);
}

// Every parameter in fp32, unpacked. Lazy.
Params dense_params(Model base) {
  unpack_model(base, mx::float32);
  for (auto& [name, array] : base.params) {
    array = mx::astype(array, mx::float32);
  }
  return std::move(base.params);
}

// As they are to be written, but for packing. Lazy.
Params fused_params(const FuseOptions& options, const Model& base, const Adapter& adapter) {
  auto params = merge_adapter(base.spec, dense_params(base), adapter.lora, adapter.params);
  for (auto& [name, array] : params) {
    const auto layer = name.substr(0, name.rfind('.'));
    auto dtype = is_packed_part(base, name) ? layer_dtype(base, layer) : base.params.at(name).dtype();
    if (options.dtype != "auto" && !keeps_dtype(name)) {
      dtype = dtype_from_name(options.dtype);
    }
    array = mx::astype(array, dtype);
  }
  return params;
}

// The layers that the base has packed, in its formats; those that the adapter leaves alone word by word. Lazy.
Params packed_again(const Model& base, const Adapter& adapter, Params params) {
  Model model;
  model.params = std::move(params);
  std::map<std::string, QuantFormat> touched;
  for (const auto& [layer, format] : base.packed) {
    if (adapter.params.contains(layer + ".lora_a") || adapter.params.contains(layer + ".weight")) {
      touched.emplace(layer, format);
      continue;
    }
    for (const char* leaf : {".weight", ".scales", ".biases"}) {
      if (const auto it = base.params.find(layer + leaf); it != base.params.end()) {
        model.params.insert_or_assign(layer + leaf, it->second);
      }
    }
  }
  pack_model(model, touched);
  return std::move(model.params);
}

// What config.json will say the weights are: asked for, said already, or else as the embedding is stored.
mx::Dtype written_dtype(const FuseOptions& options, const Model& base) {
  if (options.dtype != "auto") {
    return dtype_from_name(options.dtype);
  }
  return stated_dtype(base.config).value_or(layer_dtype(base, base.spec.prefix + "embed_tokens"));
}

void check_cancelled(const FuseOptions& options) {
  if (options.cancelled && options.cancelled()) {
    throw FuseCancelled{};
  }
}

// The folder's dtype.
mx::Dtype write_fused(const FuseOptions& options, const Adapter& adapter, const fs::path& folder) {
  auto base = open_model(options.model);
  auto params = fused_params(options, base, adapter);
  if (options.quantize_again) {
    params = packed_again(base, adapter, std::move(params));
  } else if (options.layout == FolderLayout::hub) {
    const auto& family = find_family(base.spec.model_type, options.model.string());
    params = export_weights(family.layout, base.spec, std::move(params));
    params.merge(other_tensors(options.model));
  }
  const auto dtype = written_dtype(options, base);
  base.params.clear(); // so that a tensor is held no longer than its file takes
  set_weights(base.config,
              options.quantize_again ? read_quant_config(base.config, options.model.string()) : QuantConfig{},
              dtype);
  save_folder(folder, base.config, std::move(params), num_parameters(base.spec), options.model,
              [&](std::int64_t, std::int64_t) { check_cancelled(options); });
  return dtype;
}

void check_options(const FuseOptions& options) {
  if (!options.quantize_again) {
    return;
  }
  Json config;
  load_spec(options.model, &config);
  if (!read_quant_config(config, options.model.string()).base) {
    throw ConfigError("--quantize-again: " + options.model.string() + " is not quantized");
  }
}

FuseReport count_parts(const FuseOptions& options, const Adapter& adapter) {
  FuseReport report;
  report.quantized = options.quantize_again;
  for (const auto& [name, array] : adapter.params) {
    report.merged_layers += name.ends_with(".lora_a") ? 1 : 0;
    report.replaced_tensors += is_adapter_tensor(name) ? 0 : 1;
  }
  return report;
}

void judge(const FuseOptions& options, const FuseReport& report) {
  if (!report.survival) {
    log::warn(options.adapter.string() + ": the adapter has no effect on the sampled text; was it trained?");
  }
  if (report.good()) {
    return;
  }
  const auto lost = fmt::format(
      "{}: the fused model lost the adapter: {:.0f}% of its effect on the logits survives, less than {:.0f}%",
      options.adapter.string(), 100.0 * std::max(0.0, *report.survival), 100.0 * kLeastSurvival);
  if (!options.force) {
    throw ModelError(lost +
                     (options.quantize_again
                          ? "; leave out --quantize-again, or write it all the same with --force"
                          : "; write more exact weights with --dtype float32, or these all the same with "
                            "--force"));
  }
  log::warn(lost + "; written all the same, as --force asks");
}

} // namespace

bool FuseReport::good() const {
  return !survival || *survival >= kLeastSurvival; // a NaN is not
}

const std::vector<std::string>& sample_texts() {
  static const std::vector<std::string> kTexts{
      "The sun rises over the mountains, and the village slowly wakes up. What will the day bring?",
      "Question: How many legs do three spiders have? Answer: Three spiders have 24 legs.",
      "def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)\n",
      "Am Morgen kauft sie Brot und Milch; le soir, il lit un livre près de la fenêtre.",
      "今天的天气很好，我们去公园散步吧。",
  };
  return kTexts;
}

FuseReport fuse_model(const FuseOptions& options) {
  DraftFolder draft(options.out);
  check_options(options);
  const auto adapter = load_adapter(options.adapter, load_spec(options.model));
  auto report = count_parts(options, adapter);
  const auto sampled = sample_base(options, adapter);
  check_cancelled(options);
  report.dtype = dtype_name(write_fused(options, adapter, draft.path()));
  check_cancelled(options);

  const auto fused = load_model(draft.path(), options.compute_dtype);
  const auto effect = distance(sampled.tuned, sampled.base);
  const auto error = distance(logits_of(ModelView(fused), sampled.texts), sampled.tuned);
  report.adapter = effect.difference;
  report.fused = error.difference;
  for (const auto& ids : sampled.texts) {
    report.sample_tokens += static_cast<int>(ids.size());
  }
  if (effect.norm != 0) {
    report.survival = 1.0 - error.norm / effect.norm;
  }
  judge(options, report);
  check_cancelled(options);
  draft.publish();
  return report;
}

} // namespace temper
