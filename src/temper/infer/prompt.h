// From a question to the tokens that the model continues.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "temper/base/json.h"
#include "temper/text/tokenizer.h"

namespace temper {

struct PromptOptions {
  std::string system{};            // a system message before the prompt; empty: none
  bool raw = false;                // the text as it stands, without the chat template
  Json variables = Json::object(); // more template variables, e.g. enable_thinking
};

// `prompt` as a user's turn, ready for the assistant's; as it stands (the system text and a blank line before
// it) with `raw` or when the model has no chat template. BOS is there once, as the template or the tokenizer
// wants it. Throws ConfigError if there is nothing to say, DataError with the template's words if it refuses.
std::vector<std::int32_t> encode_prompt(const Tokenizer& tokenizer, const std::string& prompt,
                                        const PromptOptions& options = {});

// A chat so far, ready for the assistant's turn; with tools by the template "tool_use" if there is one.
// Throws ModelError if the model has no chat template, DataError with its words if it refuses.
std::vector<std::int32_t> encode_messages(const Tokenizer& tokenizer, const Json& messages,
                                          RenderOptions options = {});

// Plain text to be continued: the tokenizer's BOS unless the text has it, and no EOS at its end.
std::vector<std::int32_t> encode_plain(const Tokenizer& tokenizer, const std::string& text);

} // namespace temper
