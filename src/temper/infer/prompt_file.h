// Prompts from a file: JSON Lines (a JSON array, CSV or TSV likewise) of {"prompt": text} or {"messages":
// [...]}, or plain text with a prompt a line. Format: docs/formats/answers.md.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "temper/base/json.h"
#include "temper/infer/prompt.h"
#include "temper/models/spec.h"
#include "temper/text/tokenizer.h"

namespace temper {

struct PromptRow {
  std::int64_t line = 0;            // in the file
  Json id = nullptr;                // a string or a number, if the row has one
  std::string text;                 // what is asked: the prompt, or the last message
  std::vector<std::int32_t> tokens; // as the model reads it
  int max_tokens = 0;               // of its answer; 0: none given
};

// The most tokens that the model was made for; 0: its config does not say, or its rope stretches with the text.
int context_length(const DecoderSpec& spec, const Json& config);

// Every row of `path`. A row may have "system" in place of `options`' own, "max_tokens", "id" and, with
// messages, "tools"; other fields are passed over. Throws DataError, with file:line, for a row that asks
// nothing, has a field of the wrong type or is longer than `context` tokens (0: any length); IoError if the
// file can't be read.
std::vector<PromptRow> read_prompt_file(const std::filesystem::path& path, const Tokenizer& tokenizer,
                                        const PromptOptions& options, int context);

} // namespace temper
