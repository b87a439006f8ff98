#include "cli/model_flags.h"

#include <filesystem>

#include <fmt/format.h>

#include "cli/interrupt.h"
#include "temper/base/error.h"
#include "temper/base/units.h"
#include "temper/infer/find_model.h"
#include "temper/io/peft_config.h"
#include "temper/nn/device.h"

namespace temper::cli {
namespace {

namespace fs = std::filesystem;

} // namespace

ModelName base_model_of(const std::string& adapter) {
  fs::path folder = adapter;
  if (!fs::is_directory(folder)) {
    folder = folder.parent_path();
  }
  const auto path = folder / "adapter_config.json";
  if (!fs::exists(path)) {
    return {};
  }
  const Json config = read_json(path);
  if (PeftConfig::describes(config)) {
    return {peft_base_model(config), ""};
  }
  const auto text = [&](const char* key) {
    return config.is_object() && config.contains(key) && config.at(key).is_string()
               ? config.at(key).get<std::string>()
               : std::string();
  };
  return {text("model"), text("revision")};
}

void ModelFlags::add_to(Args& args) {
  args.group("Model");
  args.add("model", &model,
           "folder of the model, or org/name on the hub; none: what the adapter was trained on")
      .letter('m')
      .metavar("DIR|NAME");
  args.add("revision", &revision, "branch, tag or commit of a model on the hub; none: its main one");
  args.add("adapter", &adapter, "adapter to put on top: a run's folder, or a .safetensors file in one")
      .alias("adapter_path")
      .letter('a')
      .metavar("PATH");
  args.add("dtype", &dtype, "what the model computes in; auto: the model's own, float32 on a CPU")
      .one_of({"auto", "float32", "bfloat16", "float16"});
}

ModelView LoadedModel::view() const {
  return adapter ? ModelView(model, *adapter) : ModelView(model);
}

LoadedModel load(const ModelFlags& flags, const BeforeWeights& before_weights) {
  prepare_device();
  ModelName base{flags.model, flags.revision};
  if (flags.model.empty() && !flags.adapter.empty()) {
    base = base_model_of(flags.adapter);
  }
  if (base.name.empty()) {
    throw ConfigError(flags.adapter.empty()
                          ? "--model is missing: name the folder of the model, or org/name on the hub"
                          : "--model is missing, and " + flags.adapter + " does not say whose adapter it is");
  }
  const auto described = find_model(base.name, base.revision, ModelFiles::description);
  Json config;
  const auto spec = load_spec(described, &config);
  // The small files come first: what is wrong with them need not wait for the weights.
  LoadedModel loaded;
  loaded.tokenizer = Tokenizer::load(described);
  if (!flags.adapter.empty()) {
    loaded.adapter = load_adapter(flags.adapter, spec);
  }
  if (before_weights) {
    before_weights(*loaded.tokenizer, spec, config);
  }
  loaded.model = load_model(find_model(base.name, base.revision), flags.dtype);
  if (loaded.adapter) {
    make_ready(*loaded.adapter, loaded.model);
  }
  return loaded;
}

void SamplingFlags::add_to(Args& args) {
  args.group("Answer");
  args.add("max_tokens", &max_tokens, "most tokens of an answer").at_least(1);
  args.add("temp", &temperature, "0: always the likeliest token; 1: as the model weighs them")
      .at_least(0)
      .alias("temperature");
  args.add("top_p", &top_p, "draw from the likeliest tokens that hold this much probability")
      .at_least(0)
      .at_most(1);
  args.add("top_k", &top_k, "draw from this many of the likeliest tokens; 0: all").at_least(0);
  args.add("min_p", &min_p, "draw from tokens at least this likely, relative to the likeliest")
      .at_least(0)
      .at_most(1);
  args.add("repetition_penalty", &repetition_penalty, "above 1: recent tokens become unlikelier; 0: off")
      .at_least(0);
  args.add("repetition_context", &repetition_context, "tokens that count as recent")
      .at_least(1)
      .alias("repetition_context_size");
  args.add("seed", &seed, "repeats a sampled answer");
  args.add("stop", &stop, "text that ends the answer; may be given several times").metavar("TEXT");
  args.add("prefill_chunk", &prefill_chunk, "prompt tokens read at once; fewer take less memory")
      .at_least(1)
      .alias("prefill_step_size");
}

GenerationOptions SamplingFlags::options() const {
  GenerationOptions options;
  options.sampling.temperature = static_cast<float>(temperature);
  options.sampling.top_p = static_cast<float>(top_p);
  options.sampling.top_k = top_k;
  options.sampling.min_p = static_cast<float>(min_p);
  options.sampling.repetition_penalty = static_cast<float>(repetition_penalty);
  options.sampling.repetition_context = repetition_context;
  options.sampling.seed = seed;
  options.max_tokens = max_tokens;
  options.stop = stop;
  options.prefill_chunk = prefill_chunk;
  options.cancelled = [] { return interrupt_signal().load() != 0; };
  return options;
}

std::string describe_speed(const GenerationResult& result) {
  auto text = fmt::format("prompt: {} tokens, {:.1f} tokens/s", result.prompt_tokens,
                          result.prompt_tokens_per_second());
  if (result.reused_tokens > 0) {
    text += fmt::format(" ({} known from before)", result.reused_tokens);
  }
  return text + fmt::format("; answer: {} tokens, {:.1f} tokens/s; peak memory {:.2f} GB", result.tokens.size(),
                            result.tokens_per_second(), gigabytes(result.peak_bytes));
}

Json result_json(const GenerationResult& result) {
  return {{"text", result.text},
          {"tokens", result.tokens.size()},
          {"token_ids", result.tokens},
          {"finish_reason", result.finish_reason},
          {"prompt_tokens", result.prompt_tokens},
          {"prompt_tokens_per_second", result.prompt_tokens_per_second()},
          {"tokens_per_second", result.tokens_per_second()},
          {"peak_memory_gb", gigabytes(result.peak_bytes)}};
}

} // namespace temper::cli
