// temper fuse: an adapter merged into its base model, as a folder of its own.
#include <fmt/format.h>

#include "cli/args.h"
#include "cli/interrupt.h"
#include "cli/model_flags.h"
#include "cli/verbs.h"
#include "temper/base/clock.h"
#include "temper/base/error.h"
#include "temper/base/log.h"
#include "temper/eval/fuse.h"
#include "temper/infer/find_model.h"
#include "temper/nn/device.h"

namespace temper::cli {
namespace {

struct FuseFlags {
  ModelName model;
  std::string adapter;
  std::string out;
  std::string layout = "hub";
  FuseOptions options;
};

// Flags of mlx_lm.fuse are aliases.
void add_flags(Args& args, FuseFlags& flags) {
  auto& options = flags.options;
  args.group("Folders");
  args.add("model", &flags.model.name,
           "folder of the base model, or org/name on the hub; none: the one the adapter was trained on")
      .letter('m')
      .metavar("DIR|NAME");
  args.add("revision", &flags.model.revision,
           "branch, tag or commit of a model on the hub; none: its main one");
  args.add("adapter", &flags.adapter, "adapter to merge: a run's folder, or a .safetensors file in one")
      .alias("adapter_path")
      .letter('a')
      .metavar("PATH")
      .required();
  args.add("out", &flags.out, "folder to write, which must be new or empty")
      .alias("save_path")
      .letter('o')
      .metavar("DIR")
      .required();
  args.group("Weights");
  args.add("dtype", &options.dtype, "of the weights written; auto: as the base stores them")
      .one_of({"auto", "float32", "bfloat16", "float16"});
  args.add("quantize_again", &options.quantize_again,
           "pack what the base has quantized in its format again; a small adapter does not survive it");
  args.add("layout", &flags.layout,
           "names and shapes of tensors: the hub's, for transformers and mlx-lm, or mlx-lm's own, which "
           "--quantize-again implies")
      .one_of({"hub", "mlx"});
  args.group("Comparison");
  args.add("text", &options.texts,
           fmt::format(
               "text to compare on, may be given several times; none: a few sentences. Of all at most {} "
               "tokens",
               kMostSampleTokens))
      .metavar("TEXT");
  args.add("compute_dtype", &options.compute_dtype,
           "what the models compute in; auto: the model's own, float32 on a CPU")
      .one_of({"auto", "float32", "bfloat16", "float16"});
  args.add("force", &options.force, "write the folder even if the fused model lost the adapter");
}

const FuseOptions& options_of(const Args& args, FuseFlags& flags) {
  auto& options = flags.options;
  auto& base = flags.model;
  if (base.name.empty()) {
    base = base_model_of(flags.adapter);
  }
  if (base.name.empty()) {
    throw ConfigError("--model is missing, and " + flags.adapter + " does not say whose adapter it is");
  }
  options.model = find_model(base.name, base.revision);
  if (options.quantize_again && args.given("layout") && flags.layout == "hub") {
    throw ConfigError(
        "--quantize-again: the hub's layout has no room for weights packed by MLX; leave out "
        "--layout");
  }
  options.adapter = flags.adapter;
  options.out = flags.out;
  options.layout = flags.layout == "mlx" ? FolderLayout::mlx : FolderLayout::hub;
  options.cancelled = [] { return interrupt_signal().load() != 0; };
  return options;
}

Json difference_json(const LogitDifference& difference) {
  return {{"max", difference.largest}, {"mean", difference.mean}};
}

Json report_json(const FuseFlags& flags, const FuseReport& report, double seconds) {
  const auto& options = flags.options;
  return {{"model", flags.model.name},
          {"adapter", options.adapter.string()},
          {"out", options.out.string()},
          {"dtype", report.dtype},
          {"quantized", report.quantized},
          {"merged_layers", report.merged_layers},
          {"replaced_tensors", report.replaced_tensors},
          {"sample_tokens", report.sample_tokens},
          {"adapter_difference", difference_json(report.adapter)},
          {"fused_difference", difference_json(report.fused)},
          {"survival", report.survival ? Json(*report.survival) : Json(nullptr)},
          {"good", report.good()},
          {"seconds", seconds}};
}

void show(const FuseOptions& options, const FuseReport& report) {
  log::info(fmt::format("{}: {} layers merged, {} tensors replaced, {}{}", options.out.string(),
                        report.merged_layers, report.replaced_tensors, report.dtype,
                        report.quantized ? ", quantized as the base" : ""));
  log::info(fmt::format("logits of {} tokens             largest      mean", report.sample_tokens));
  log::info(fmt::format("  what the adapter changes    {:11.3g} {:9.3g}", report.adapter.largest,
                        report.adapter.mean));
  log::info(
      fmt::format("  fused model as written, off {:11.3g} {:9.3g}", report.fused.largest, report.fused.mean));
  if (report.survival) {
    log::info(fmt::format("  of the adapter's effect survive {:.1f}%", 100.0 * *report.survival));
  }
}

} // namespace

int run_fuse(const Arguments& arguments) {
  FuseFlags flags;
  Args args(
      "fuse",
      "Merge an adapter into its base model and write a complete model folder; compare what was written with "
      "base and adapter.",
      "temper fuse --model models/Llama-3.2-1B --adapter runs/mine --out models/mine");
  add_flags(args, flags);
  if (!args.parse(arguments)) {
    return 0;
  }
  const auto& options = options_of(args, flags);
  prepare_device();
  catch_interrupts();
  const Stopwatch watch;
  try {
    const auto report = fuse_model(options);
    show(options, report);
    if (args.json()) {
      print_json(report_json(flags, report, watch.seconds()));
    }
    return 0;
  } catch (const FuseCancelled&) {
    return end_interrupted(flags.out);
  }
}

} // namespace temper::cli
