// A Modelfile: how Ollama runs a GGUF file. Source: https://docs.ollama.com/modelfile.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "temper/text/tokenizer.h"

namespace temper {

// "<stem>.Modelfile" beside the file.
std::filesystem::path modelfile_path(const std::filesystem::path& gguf);

// The chat template in Ollama's language (Go's text/template), found by what the tokenizer's own renders for a
// few conversations, not by its text: any template whose turns are strung together by fixed strings (ChatML,
// Llama 3, Gemma, Phi 3, Mistral, Granite ...). "" if it does more.
std::string ollama_template(const Tokenizer& tokenizer);

// FROM, TEMPLATE (left to Ollama where there is none; `notes` says so) and the tokens that stop.
std::string make_modelfile(const Tokenizer& tokenizer, const std::string& gguf_name,
                           std::vector<std::string>& notes);

} // namespace temper
