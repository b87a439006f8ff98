// A tokenizer as llama.cpp wants it: a list of tokens with types, and scores or merges.
// Source: the tokenizer's keys in https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "temper/text/tokenizer.h"

namespace temper {

// GGUF's numbers.
enum class TokenType : std::int32_t {
  normal = 1,
  unknown = 2,
  control = 3,
  user_defined = 4,
  unused = 5,
  byte = 6,
};

struct Vocabulary {
  std::string model; // gpt2: byte-level BPE; llama: SentencePiece's BPE; t5: unigrams
  std::string pre;   // how text is cut before BPE; "default" elsewhere
  std::vector<std::string> tokens;
  std::vector<TokenType> types;
  std::vector<float> scores;       // llama and t5: the higher, the sooner
  std::vector<std::string> merges; // gpt2: "left right"
  std::optional<std::int32_t> bos, eos, eot, eom, unk, pad;
  bool add_bos = false;
  bool add_eos = false;
  bool strips_after_specials = false;           // spaces after special tokens vanish, as in Phi-3
  std::optional<bool> add_space_prefix;         // llama and t5
  std::optional<bool> remove_extra_whitespaces; // t5
  std::vector<std::uint8_t> charsmap;           // t5: SentencePiece's compiled normalizer
  std::string tokenizer_json;                   // the whole tokenizer, compact
  std::map<std::string, std::string> templates; // Jinja source by name
  std::vector<std::string> notes;               // what differs in llama.cpp, a sentence each
};

// For a model of `rows` embeddings: tokens beyond are left out, rows without a token get a name of their own.
// `pre` overrides what is recognized. Throws ModelError, with `origin`, if llama.cpp has no such tokenizer: its
// kind or its way of cutting text is not known, or it has no EOS.
Vocabulary read_vocabulary(const Tokenizer& tokenizer, int rows, const std::string& pre,
                           const std::string& origin);

} // namespace temper
