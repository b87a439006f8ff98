// temper generate: a model's answer to one prompt, or to a file of them.
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <iterator>

#include <fmt/format.h>

#include "cli/args.h"
#include "cli/generate_file.h"
#include "cli/interrupt.h"
#include "cli/model_flags.h"
#include "cli/verbs.h"
#include "temper/base/error.h"
#include "temper/base/log.h"
#include "temper/infer/fingerprint.h"
#include "temper/infer/prompt.h"
#include "temper/infer/prompt_cache.h"
#include "temper/infer/prompt_file.h"

namespace temper::cli {
namespace {

// "-": all of standard input, less the newline that ends it.
std::string read_prompt(const std::string& prompt) {
  if (prompt != "-") {
    return prompt;
  }
  std::string text{std::istreambuf_iterator<char>(std::cin), {}};
  if (text.ends_with('\n')) {
    text.pop_back();
  }
  return text;
}

// What the caches in --prompt-cache were made with.
CacheOrigin origin_of(const LoadedModel& loaded, const ModelFlags& flags) {
  return {weights_fingerprint(loaded.model.path), weights_fingerprint(flags.adapter),
          dtype_name(loaded.model.dtype)};
}

// Keeps the prompt's caches in `path`, from which a later prompt that begins like it goes on.
void keep(const std::string& path, const CacheOrigin& origin, const PromptCache& cached,
          const DecoderSpec& spec) {
  if (cached.tokens.empty()) {
    log::warn("--prompt-cache: the prompt is too short to keep");
    return;
  }
  save_prompt_cache(path, origin, cached, spec);
  log::info(fmt::format("{} tokens of the prompt kept in {}", cached.tokens.size(), path));
}

void check_length(const std::vector<std::int32_t>& prompt, const LoadedModel& loaded) {
  const int context = context_length(loaded.model.spec, loaded.model.config);
  if (context > 0 && prompt.size() > static_cast<std::size_t>(context)) {
    throw ConfigError(fmt::format("prompt: it has {} tokens, more than the model's context of {}; shorten it",
                                  prompt.size(), context));
  }
}

// What is wrong with the name of the file that the caches will go to, before anything is computed.
void check_cache_file(const std::filesystem::path& path) {
  if (path.extension() != ".safetensors") {
    throw ConfigError("--prompt-cache " + path.string() + ": a name that ends in .safetensors is wanted");
  }
  if (const auto folder = path.parent_path(); !folder.empty() && !std::filesystem::is_directory(folder)) {
    throw IoError("--prompt-cache " + path.string() + ": there is no folder " + folder.string());
  }
}

int answer_prompt(const std::string& prompt, const std::string& cache_file, const ModelFlags& model,
                  const PromptOptions& options, const GenerationOptions& generation, bool json) {
  const auto text = read_prompt(prompt);
  const auto loaded = load(model);
  const auto ids = encode_prompt(*loaded.tokenizer, text, options);
  check_length(ids, loaded);
  Generator generator(loaded.view(), loaded.tokenizer);
  const bool known = !cache_file.empty() && std::filesystem::exists(cache_file);
  std::size_t kept = 0;
  if (known) {
    auto cached = load_prompt_cache(cache_file, origin_of(loaded, model), loaded.model.spec);
    kept = cached.tokens.size();
    generator.adopt(std::move(cached));
  }
  catch_interrupts();
  mx::reset_peak_memory();
  const auto result = generator.generate(ids, generation, [&](std::string_view part) {
    if (!json) {
      std::fwrite(part.data(), 1, part.size(), stdout);
      std::fflush(stdout);
    }
    return true;
  });
  if (json) {
    auto shown = result_json(result);
    shown["reused_tokens"] = result.reused_tokens;
    print_json(shown);
  } else {
    std::fputs("\n", stdout);
    std::fflush(stdout);
  }
  log::info(describe_speed(result));
  if (known && 2 * static_cast<std::size_t>(result.reused_tokens) < kept) {
    log::warn(fmt::format("{}: the prompt begins otherwise: of {} tokens {} were of use", cache_file, kept,
                          result.reused_tokens));
  } else if (!known && !cache_file.empty() && !result.tokens.empty()) {
    keep(cache_file, origin_of(loaded, model), generator.cached(result.prompt_tokens), loaded.model.spec);
  }
  return result.finish_reason == "cancelled" ? interrupt_exit_code(interrupt_signal().load()) : 0;
}

} // namespace

int run_generate(const Arguments& arguments) {
  ModelFlags model;
  SamplingFlags sampling;
  PromptFileFlags file;
  std::string prompt;
  std::string cache_file;
  PromptOptions options;
  Args args("generate", "A model's answer to one prompt, printed as it grows, or to many, several at once.",
            "temper generate --model models/Llama-3.2-1B-Instruct --adapter runs/mine --prompt \"Aloha!\"");
  model.add_to(args);
  args.group("Prompt");
  args.add("prompt", &prompt, "what to answer; -: read standard input").letter('p').metavar("TEXT");
  args.add("system", &options.system, "a system message before it").alias("system_prompt").metavar("TEXT");
  args.add("raw", &options.raw, "continue the text as it stands, without the chat template")
      .alias("ignore_chat_template");
  args.add("chat_template_config", &options.variables, "more variables for the chat template, as JSON")
      .metavar("JSON");
  args.add("prompt_cache", &cache_file, "keep what was read here; a prompt that begins alike goes on from it")
      .alias("prompt_cache_file")
      .metavar("FILE");
  file.add_to(args);
  sampling.add_to(args);
  if (!args.parse(arguments)) {
    return 0;
  }
  const auto generation = sampling.options();
  validate(generation);
  const bool many = args.given("prompts");
  if (many == args.given("prompt")) {
    throw ConfigError(
        many ? "--prompt and --prompts: give one of them, a text or a file of them"
             : "--prompt is missing: what to answer, or --prompts with a file; see `temper generate "
               "--help`");
  }
  for (const char* flag : {"output", "resume", "batch_size"}) {
    if (!many && args.given(flag)) {
      throw ConfigError(std::string("--") + (std::string(flag) == "batch_size" ? "batch-size" : flag) +
                        " goes with --prompts, a file of prompts");
    }
  }
  if (many && args.given("prompt_cache")) {
    throw ConfigError(
        "--prompt-cache goes with --prompt; what the prompts of a file share is read once as it is");
  }
  if (!cache_file.empty()) {
    check_cache_file(cache_file);
  }
  if (args.given("resume") && file.output.empty()) {
    throw ConfigError("--resume goes with --output, whose answers it goes on with");
  }
  return many ? answer_prompt_file(file, model, options, generation, args.json())
              : answer_prompt(prompt, cache_file, model, options, generation, args.json());
}

} // namespace temper::cli
