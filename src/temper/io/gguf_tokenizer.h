// The tokenizer that a GGUF file carries, as the files of a model folder.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "temper/io/gguf.h"

namespace temper {

// File names and what they hold: tokenizer.json (as the file brings it in tokenizer.huggingface.json, or made
// of the tokens, merges and the regular expressions that tokenizer.ggml.pre stands for) or tokenizer.model
// (made of the pieces and their scores), tokenizer_config.json, generation_config.json, chat_template.jinja.
// Throws ModelError naming file and key: a kind of tokenizer or tokenizer.ggml.pre that is not known here,
// lists of different lengths, ids beyond the vocabulary.
std::map<std::string, std::string> gguf_tokenizer_files(const GgufHeader& header);

} // namespace temper
