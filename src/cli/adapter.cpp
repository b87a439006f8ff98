// temper adapter: adapters converted between PEFT's format and mlx-lm's, and put together.
#include <algorithm>

#include <fmt/format.h>

#include "cli/args.h"
#include "cli/interrupt.h"
#include "cli/model_flags.h"
#include "cli/verbs.h"
#include "temper/base/error.h"
#include "temper/base/log.h"
#include "temper/infer/find_model.h"
#include "temper/io/convert_adapter.h"
#include "temper/nn/device.h"

namespace temper::cli {
namespace {

struct AdapterFlags {
  std::vector<std::string> adapters;
  std::vector<double> weights;
  std::optional<int> rank;
  std::string to = "mlx-lm";
  std::string out;
  ModelName model;
};

void add_flags(Args& args, AdapterFlags& flags) {
  args.group("Adapters");
  args.add("adapter", &flags.adapters,
           "a folder of PEFT's, of mlx-lm's or a run's, or a .safetensors file in one; several: their weighted "
           "sum")
      .alias("adapter_path")
      .letter('a')
      .metavar("PATH")
      .required();
  args.add("weight", &flags.weights, "of each --adapter, in their order; none: 1 each").metavar("X");
  args.add("rank", &flags.rank, "lower every layer to this rank, as near as it can be (SVD)").at_least(1);
  args.group("Base model");
  args.add("model", &flags.model.name,
           "folder of the base model, or org/name on the hub; none: the one the adapter was trained on")
      .letter('m')
      .metavar("DIR|NAME");
  args.add("revision", &flags.model.revision,
           "branch, tag or commit of a model on the hub; none: its main one");
  args.group("Result");
  args.add("to", &flags.to, "format to write").one_of({"mlx-lm", "peft"});
  args.add("out", &flags.out, "folder to write, which must be new or empty")
      .letter('o')
      .metavar("DIR")
      .required();
}

// The one that all adapters name, unless --model does.
ModelName common_base(const AdapterFlags& flags) {
  if (!flags.model.name.empty()) {
    return flags.model;
  }
  ModelName base;
  for (const auto& adapter : flags.adapters) {
    const auto own = base_model_of(adapter);
    if (own.name.empty()) {
      throw ConfigError("--model is missing, and " + adapter + " does not say whose adapter it is");
    }
    if (!base.name.empty() && (own.name != base.name || own.revision != base.revision)) {
      throw ConfigError("the adapters are of different models, " + base.name + " and " + own.name +
                        "; if they are the same, name it with --model");
    }
    base = own;
  }
  return base;
}

std::vector<AdapterSource> sources_of(const AdapterFlags& flags) {
  if (!flags.weights.empty() && flags.weights.size() != flags.adapters.size()) {
    throw ConfigError(fmt::format("--weight: {} given for {} adapters; give one for each, or none",
                                  flags.weights.size(), flags.adapters.size()));
  }
  std::vector<AdapterSource> sources;
  sources.reserve(flags.adapters.size());
  for (std::size_t i = 0; i < flags.adapters.size(); ++i) {
    sources.push_back({flags.adapters[i], flags.weights.empty() ? 1.0 : flags.weights[i]});
  }
  return sources;
}

Json report_json(const AdapterFlags& flags, const ConvertAdapterReport& report) {
  return {{"out", flags.out},
          {"format", flags.to},
          {"fine_tune_type", report.fine_tune_type},
          {"layers", report.layers},
          {"whole_tensors", report.whole_tensors},
          {"rank", report.rank},
          {"lost", report.lost ? Json(*report.lost) : Json(nullptr)}};
}

void show(const AdapterFlags& flags, const ConvertAdapterReport& report) {
  log::info(report.fine_tune_type == "full"
                ? fmt::format("{}: {} whole tensors, for {}", flags.out, report.whole_tensors, flags.to)
                : fmt::format("{}: {} on {} layers of rank {} at most, {} whole tensors, for {}", flags.out,
                              report.fine_tune_type, report.layers, report.rank, report.whole_tensors,
                              flags.to));
  if (report.lost) {
    log::info(fmt::format("  lower ranks lose {:.3g}% of the updates' norm", 100.0 * *report.lost));
  }
}

} // namespace

int run_adapter(const Arguments& arguments) {
  AdapterFlags flags;
  Args args(
      "adapter",
      "Convert an adapter between PEFT's format and mlx-lm's, add several up by weights, or lower its rank.",
      "temper adapter --adapter runs/mine --to peft --out mine-peft");
  add_flags(args, flags);
  if (!args.parse(arguments)) {
    return 0;
  }
  ConvertAdapterOptions options;
  options.sources = sources_of(flags);
  const auto base = common_base(flags);
  options.base_model = base.name;
  options.out = flags.out;
  options.rank = flags.rank;
  options.format = flags.to == "peft" ? AdapterFormat::peft : AdapterFormat::mlx_lm;
  options.model = find_model(base.name, base.revision, ModelFiles::description);
  options.weights = [&base] { return find_model(base.name, base.revision); };
  options.progress = throw_if_interrupted;
  prepare_device();
  catch_interrupts();
  try {
    const auto report = convert_adapter(options);
    show(flags, report);
    if (args.json()) {
      print_json(report_json(flags, report));
    }
    return 0;
  } catch (const Interrupted&) {
    return end_interrupted(flags.out);
  }
}

} // namespace temper::cli
