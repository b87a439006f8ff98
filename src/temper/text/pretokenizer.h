// Which of llama.cpp's rules for cutting text before BPE a tokenizer.json asks for. llama.cpp knows them by
// name (llama-vocab.cpp of its source, MIT), tokenizer.json by its expressions.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

namespace temper {

// How a tokenizer.json cuts text, in words: "digits | bytelevel, words". For messages.
std::string describe_pretokenizer(const nlohmann::json& tokenizer);

// tokenizer.ggml.pre of a byte-level BPE tokenizer: "llama-bpe", "qwen2" ...; "" if it is none that is known.
std::string pretokenizer_id(const nlohmann::json& tokenizer);

} // namespace temper
