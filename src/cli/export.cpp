// temper export: a model or an adapter in the format of other programs.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "cli/args.h"
#include "cli/interrupt.h"
#include "cli/model_flags.h"
#include "cli/verbs.h"
#include "temper/base/clock.h"
#include "temper/base/error.h"
#include "temper/base/log.h"
#include "temper/eval/export_gguf.h"
#include "temper/infer/find_model.h"
#include "temper/io/gguf_recipe.h"
#include "temper/nn/device.h"

namespace temper::cli {
namespace {

struct ExportFlags {
  std::string to;
  ModelName model;
  std::string adapter;
  std::string out;
  GgufExportOptions options;
};

std::vector<std::string> type_names() {
  std::vector<std::string> names;
  for (const auto& recipe : gguf_recipes()) {
    names.emplace_back(recipe.name);
  }
  return names;
}

void add_flags(Args& args, ExportFlags& flags) {
  auto& options = flags.options;
  args.group("What and where");
  args.add("to", &flags.to, "the format").one_of({"gguf"}).required();
  args.add("model", &flags.model.name,
           "folder of the model, or org/name on the hub; none: the one the adapter was trained on")
      .letter('m')
      .metavar("DIR|NAME");
  args.add("revision", &flags.model.revision,
           "branch, tag or commit of a model on the hub; none: its main one");
  args.add("adapter", &flags.adapter, "adapter to merge first: a run's folder, or a .safetensors file in one")
      .alias("adapter_path")
      .letter('a')
      .metavar("PATH");
  args.add("out", &flags.out, "file to write").letter('o').metavar("FILE").required();
  args.add("force", &options.force, "write over a file that is there");
  args.group("GGUF");
  args.add("type", &options.type, "how weights are stored; vectors are always f32").one_of(type_names());
  args.add("adapter_only", &options.adapter_only, "write the adapter alone, to load beside its base model");
  args.add("modelfile", &options.modelfile, "also write FILE's Modelfile for Ollama");
  args.add("pre", &options.pre,
           "llama.cpp's name for how the tokenizer cuts text; none: recognized by its expressions")
      .metavar("NAME");
}

const GgufExportOptions& options_of(ExportFlags& flags) {
  auto& options = flags.options;
  auto& base = flags.model;
  if (base.name.empty() && !flags.adapter.empty()) {
    base = base_model_of(flags.adapter);
  }
  if (base.name.empty()) {
    throw ConfigError(flags.adapter.empty()
                          ? "--model is missing"
                          : "--model is missing, and " + flags.adapter + " does not say whose adapter it is");
  }
  options.model = find_model(base.name, base.revision);
  options.adapter = flags.adapter;
  options.out = flags.out;
  options.name = std::filesystem::path(flags.out).stem().string();
  options.progress = throw_if_interrupted;
  return options;
}

Json report_json(const ExportFlags& flags, const GgufExportReport& report, double seconds) {
  const auto& options = flags.options;
  return {{"model", flags.model.name},
          {"adapter", options.adapter.empty() ? Json(nullptr) : Json(options.adapter.string())},
          {"out", options.out.string()},
          {"architecture", report.arch},
          {"type", options.type},
          {"tensors", report.tensors},
          {"bytes", report.bytes},
          {"types", report.types},
          {"fell_back", report.fell_back},
          {"notes", report.notes},
          {"modelfile", report.modelfile.empty() ? Json(nullptr) : Json(report.modelfile.string())},
          {"seconds", seconds}};
}

void show(const GgufExportOptions& options, const GgufExportReport& report) {
  std::vector<std::string> types;
  types.reserve(report.types.size());
  for (const auto& [type, count] : report.types) {
    types.push_back(fmt::format("{} {}", count, type));
  }
  log::info(fmt::format("{}: {} tensors of {} ({}), {:.1f} MB", options.out.string(), report.tensors,
                        report.arch, fmt::join(types, ", "), static_cast<double>(report.bytes) / 1e6));
  if (!report.fell_back.empty()) {
    log::warn(fmt::format("rows are no whole blocks of the type wanted, so another was taken: {}",
                          fmt::join(report.fell_back, ", ")));
  }
  for (const auto& note : report.notes) {
    log::warn(note);
  }
  if (!report.modelfile.empty()) {
    log::info(fmt::format("{0}: run it with `ollama create NAME -f {0}`", report.modelfile.string()));
  }
}

} // namespace

int run_export(const Arguments& arguments) {
  ExportFlags flags;
  Args args("export", "Write a model, an adapter merged into it, or an adapter alone for llama.cpp and Ollama.",
            "temper export --to gguf --model models/Llama-3.2-1B --adapter runs/mine --type q4_k_m --out "
            "mine.gguf");
  add_flags(args, flags);
  if (!args.parse(arguments)) {
    return 0;
  }
  const auto& options = options_of(flags);
  prepare_device();
  catch_interrupts();
  const Stopwatch watch;
  try {
    const auto report = export_gguf(options);
    show(options, report);
    if (args.json()) {
      print_json(report_json(flags, report, watch.seconds()));
    }
    return 0;
  } catch (const Interrupted&) {
    return end_interrupted(flags.out);
  }
}

} // namespace temper::cli
