// What a model folder says about its tokenizer besides tokenizer.json: special tokens, added tokens, chat
// templates, where generation stops. For src/temper/text only.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "temper/base/json.h"

namespace temper {

struct TokenizerFiles {
  std::filesystem::path model; // tokenizer.json or tokenizer.model
  bool is_sentencepiece = false;
  std::string model_bytes;

  Json specials = Json::object();    // bos_token, eos_token ...: their text; additional_special_tokens: a list
  Json added_tokens = Json::array(); // tokenizer_config.json's added_tokens_decoder, by id, each with its id
  std::map<std::string, std::string> templates; // Jinja source by name

  std::optional<bool> add_bos_token;
  std::optional<bool> add_eos_token;
  std::optional<bool> add_prefix_space;
  bool legacy = false; // tokenizer_config.json's: a SentencePiece prefix after every special token

  // From generation_config.json, or config.json where that says nothing.
  std::vector<std::int32_t> bos_ids;
  std::vector<std::int32_t> eos_ids;
  std::vector<std::int32_t> pad_ids;

  std::string fingerprint; // of everything here but the ids
};

// Throws ModelError if the folder has no tokenizer or one of the files can't be read.
TokenizerFiles read_tokenizer_files(const std::filesystem::path& model_dir);

} // namespace temper
