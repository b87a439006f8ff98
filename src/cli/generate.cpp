// temper generate: a model's answer to one prompt.
#include <cstdio>
#include <iostream>
#include <iterator>

#include "cli/args.h"
#include "cli/interrupt.h"
#include "cli/model_flags.h"
#include "cli/verbs.h"
#include "temper/base/error.h"
#include "temper/base/log.h"
#include "temper/infer/prompt.h"

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

} // namespace

int run_generate(const Arguments& arguments) {
  ModelFlags model;
  SamplingFlags sampling;
  std::string prompt;
  PromptOptions options;
  Args args("generate", "A model's answer to one prompt, printed as it grows.",
            "temper generate --model models/Llama-3.2-1B-Instruct --adapter runs/mine --prompt \"Aloha!\"");
  model.add_to(args);
  args.group("Prompt");
  args.add("prompt", &prompt, "what to answer; -: read standard input").letter('p').metavar("TEXT").required();
  args.add("system", &options.system, "a system message before it").alias("system_prompt").metavar("TEXT");
  args.add("raw", &options.raw, "continue the text as it stands, without the chat template")
      .alias("ignore_chat_template");
  args.add("chat_template_config", &options.variables, "more variables for the chat template, as JSON")
      .metavar("JSON");
  sampling.add_to(args);
  if (!args.parse(arguments)) {
    return 0;
  }
  const auto generation = sampling.options();
  validate(generation);
  const auto text = read_prompt(prompt);
  const auto loaded = load(model);
  const auto ids = encode_prompt(*loaded.tokenizer, text, options);

  catch_interrupts();
  mx::reset_peak_memory();
  Generator generator(loaded.view(), loaded.tokenizer);
  const auto result = generator.generate(ids, generation, [&](std::string_view part) {
    if (!args.json()) {
      std::fwrite(part.data(), 1, part.size(), stdout);
      std::fflush(stdout);
    }
    return true;
  });
  if (args.json()) {
    print_json(result_json(result));
  } else {
    std::fputs("\n", stdout);
    std::fflush(stdout);
  }
  log::info(describe_speed(result));
  return result.finish_reason == "cancelled" ? interrupt_exit_code(interrupt_signal().load()) : 0;
}

} // namespace temper::cli
