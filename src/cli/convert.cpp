// temper convert: a model folder quantized, unpacked, or in another dtype.
#include <fmt/format.h>

#include "cli/args.h"
#include "cli/interrupt.h"
#include "cli/verbs.h"
#include "temper/base/clock.h"
#include "temper/base/error.h"
#include "temper/base/log.h"
#include "temper/base/units.h"
#include "temper/infer/find_model.h"
#include "temper/io/convert.h"
#include "temper/nn/device.h"

namespace temper::cli {
namespace {

struct ConvertFlags {
  std::string model;
  std::string revision;
  std::string out;
  bool quantize = false;
  bool dequantize = false;
  std::string mode = "affine";
  std::optional<int> bits;
  std::optional<int> group_size;
  std::string recipe = "none";
  std::vector<std::string> keep;
  std::string dtype = "auto";
};

std::vector<std::string> recipe_names() {
  std::vector<std::string> names{"none"};
  for (const auto& recipe : quant_recipes()) {
    names.push_back(recipe.name);
  }
  return names;
}

// Flags of mlx_lm.convert are aliases.
void add_flags(Args& args, ConvertFlags& flags) {
  args.group("Folders");
  args.add("model", &flags.model, "folder of the model, or org/name on the hub")
      .alias("hf_path")
      .letter('m')
      .metavar("DIR|NAME")
      .required();
  args.add("revision", &flags.revision, "branch, tag or commit of a model on the hub; none: its main one");
  args.add("out", &flags.out, "folder to write, which must be new or empty")
      .alias("mlx_path")
      .letter('o')
      .metavar("DIR")
      .required();
  args.group("Quantization");
  args.add("quantize", &flags.quantize,
           "pack the weights; implied by --mode, --bits, --group-size and --recipe")
      .letter('q');
  args.add("mode", &flags.mode, "how values are packed").alias("q_mode").one_of(quant_mode_names());
  args.add("bits", &flags.bits, "bits a weight; none: 4, mxfp8 has 8").alias("q_bits").at_least(1);
  args.add("group_size", &flags.group_size, "weights that share a scale; none: the mode's usual")
      .alias("q_group_size")
      .at_least(1);
  args.add("recipe", &flags.recipe, "more bits for the layers that need them; mixed_4_6: 4 bits and 6")
      .alias("quant_predicate")
      .one_of(recipe_names());
  args.add("keep", &flags.keep, "layers to leave as they are, as lm_head,self_attn.v_proj")
      .commas()
      .metavar("LAYERS");
  args.add("dequantize", &flags.dequantize, "unpack what is packed; with --quantize: and pack it anew")
      .letter('d');
  args.add("dtype", &flags.dtype, "of what is not packed; auto: as config.json says")
      .one_of({"auto", "float32", "bfloat16", "float16"});
}

std::optional<QuantChoice> choice_of(const Args& args, const ConvertFlags& flags) {
  const bool mixed = flags.recipe != "none";
  const bool implied = args.given("mode") || flags.bits || flags.group_size || mixed;
  if (!flags.quantize && !implied) {
    if (!flags.keep.empty()) {
      throw ConfigError("--keep means nothing without --quantize");
    }
    return std::nullopt;
  }
  if (mixed && (flags.mode != "affine" || flags.bits)) {
    throw ConfigError("--recipe " + flags.recipe + " brings its own bits, in mode affine: leave out " +
                      (flags.bits ? "--bits" : "--mode"));
  }
  return QuantChoice{make_quant_format(flags.mode, flags.bits, flags.group_size), mixed ? flags.recipe : "",
                     flags.keep};
}

Json report_json(const ConvertFlags& flags, const ConvertReport& report, double seconds) {
  return {{"model", flags.model},
          {"out", flags.out},
          {"parameters", report.parameters},
          {"bytes_before", report.bytes_before},
          {"bytes_after", report.bytes_after},
          {"bits_per_weight_before", report.bits_before()},
          {"bits_per_weight", report.bits_after()},
          {"quantization", report.quantization},
          {"seconds", seconds}};
}

} // namespace

int run_convert(const Arguments& arguments) {
  ConvertFlags flags;
  Args args("convert", "Write a model quantized, unpacked or in another dtype, as a folder of mlx-lm's layout.",
            "temper convert --model models/Llama-3.2-1B --out models/Llama-3.2-1B-4bit --bits 4");
  add_flags(args, flags);
  if (!args.parse(arguments)) {
    return 0;
  }
  ConvertOptions options{find_model(flags.model, flags.revision),
                         flags.out,
                         choice_of(args, flags),
                         flags.dequantize,
                         flags.dtype,
                         [](std::int64_t, std::int64_t) { throw_if_interrupted(); }};
  prepare_device();
  catch_interrupts();
  const Stopwatch watch;
  try {
    const auto report = convert_model(options);
    log::info(fmt::format("{}: {:.2f} GB, {:.2f} bits a weight -> {}: {:.2f} GB, {:.2f} bits a weight",
                          flags.model, gigabytes(report.bytes_before), report.bits_before(), flags.out,
                          gigabytes(report.bytes_after), report.bits_after()));
    if (args.json()) {
      print_json(report_json(flags, report, watch.seconds()));
    }
    return 0;
  } catch (const Interrupted&) {
    return end_interrupted(flags.out);
  }
}

} // namespace temper::cli
