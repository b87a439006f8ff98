// temper models: the families that the registry holds, or what one model's config.json describes.
#include <cstdio>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "cli/args.h"
#include "cli/verbs.h"
#include "temper/base/json.h"
#include "temper/infer/find_model.h"
#include "temper/io/model_folder.h"
#include "temper/models/registry.h"
#include "temper/models/tensors.h"

namespace temper::cli {
namespace {

Json families_json() {
  Json list = Json::array();
  for (const auto& family : families()) {
    list.push_back(
        {{"models", family.description}, {"model_types", family.model_types}, {"features", family.features}});
  }
  return list;
}

void print_families() {
  for (const auto& family : families()) {
    fmt::print("{}\n    model_type: {}\n    {}\n", family.description, fmt::join(family.model_types, ", "),
               fmt::join(family.features, "; "));
  }
  fmt::print(
      "\nEach trains by LoRA and in full, packed, with gradient checkpointing, from dense or quantized "
      "weights,\nand generates with a cache, alone and in batches.\n");
}

// How many layers of each kind: "attention", "attention, window 1024", "short convolution" ...
Json layer_counts(const DecoderSpec& spec) {
  Json counts = Json::object();
  for (const auto& layer : spec.layers) {
    std::string kind = layer.mixer == Mixer::short_conv    ? "short convolution"
                       : layer.mixer == Mixer::gated_delta ? "gated delta net"
                                                           : "attention";
    if (layer.window > 0) {
      kind += ", window " + std::to_string(layer.window);
    }
    if (layer.mixer == Mixer::attention && layer.rope == kNoRope) {
      kind += ", no rope";
    }
    if (layer.moe) {
      kind += fmt::format(", {} of {} experts", spec.moe.routing.num_chosen, spec.moe.num_experts);
    }
    counts[kind] = counts.value(kind, 0) + 1;
  }
  return counts;
}

Json describe(const DecoderSpec& spec, const Json& config) {
  std::int64_t parameters = 0;
  for (const auto& [name, shape] : expected_tensors(spec)) {
    std::int64_t count = 1;
    for (const auto size : shape) {
      count *= size;
    }
    parameters += count;
  }
  std::set<std::string> keys;
  for (const auto& layer : adaptable_layers(spec, -1, {})) {
    keys.insert(layer_key(spec, layer.name));
  }
  return {{"model_type", spec.model_type},
          {"parameters", parameters},
          {"dtype", dtype_name(stored_dtype(config))},
          {"layers", layer_counts(spec)},
          {"hidden_size", spec.hidden_size},
          {"vocab_size", spec.vocab_size},
          {"heads", spec.num_heads},
          {"kv_heads", spec.num_kv_heads},
          {"head_dim", spec.head_dim},
          {"tied_head", spec.tied_head},
          {"lora_keys", keys}};
}

void print_description(const Json& d) {
  fmt::print("{}: {:.2f} million parameters, stored as {}\n", d["model_type"].get<std::string>(),
             d["parameters"].get<double>() / 1e6, d["dtype"].get<std::string>());
  for (const auto& [kind, count] : d["layers"].items()) {
    fmt::print("  {} x {}\n", count.get<int>(), kind);
  }
  fmt::print("  hidden size {}, {} heads of {} ({} of keys), vocabulary {}{}\n", d["hidden_size"].get<int>(),
             d["heads"].get<int>(), d["head_dim"].get<int>(), d["kv_heads"].get<int>(),
             d["vocab_size"].get<int>(), d["tied_head"].get<bool>() ? ", tied to the head" : "");
  fmt::print("  LoRA adapts: {}\n", fmt::join(d["lora_keys"].get<std::vector<std::string>>(), ", "));
}

} // namespace

int run_models(const Arguments& arguments) {
  std::string model;
  std::string revision;
  Args args("models",
            "The model families that can be trained; with --model, what that folder's config.json describes.",
            "temper models --model models/gemma-3-4b-it");
  args.add("model", &model, "a model's folder, or org/name on the hub; none: list the families")
      .letter('m')
      .metavar("DIR|NAME");
  args.add("revision", &revision, "branch, tag or commit of a model on the hub; none: its main one");
  if (!args.parse(arguments)) {
    return 0;
  }
  if (model.empty()) {
    if (args.json()) {
      print_json({{"families", families_json()}});
    } else {
      print_families();
    }
    return 0;
  }
  Json config;
  const auto spec = load_spec(find_model(model, revision, ModelFiles::description), &config);
  const auto description = describe(spec, config);
  if (args.json()) {
    print_json(description);
  } else {
    print_description(description);
  }
  return 0;
}

} // namespace temper::cli
