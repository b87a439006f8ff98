// temper generate --prompts: a file of prompts answered many at once.
#pragma once

#include <string>

#include "cli/args.h"
#include "cli/model_flags.h"
#include "temper/infer/prompt.h"

namespace temper::cli {

struct PromptFileFlags {
  std::string prompts;
  std::string output;
  bool resume = false;
  int batch_size = 32;

  void add_to(Args& args);
};

// Answers every prompt of the file and returns the exit code. Throws as read_prompt_file(), load() and
// AnswerFile do.
int answer_prompt_file(const PromptFileFlags& flags, const ModelFlags& model, const PromptOptions& prompts,
                       GenerationOptions options, bool json);

} // namespace temper::cli
