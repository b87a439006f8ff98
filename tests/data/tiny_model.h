// A model folder with a tokenizer of one token a byte, so that a test can count on its fingers.
// Ids: 0 <s>, 1 </s>, 2 <|system|>, 3 <|user|>, 4 <|assistant|>, 5 <|tool|>, 10 + byte.
#pragma once

#include <memory>
#include <string>

#include "temper/base/json.h"
#include "temper/text/tokenizer.h"
#include "text/fixtures.h"

namespace temper::test {

constexpr std::int32_t kBos = 0;
constexpr std::int32_t kEos = 1;
constexpr std::int32_t kAssistant = 4;

inline std::int32_t id_of(char c) {
  return 10 + static_cast<unsigned char>(c);
}

// The character that stands for a byte in byte-level vocabularies (GPT-2's table).
inline std::string byte_character(int byte, int& next) {
  const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  const int code = printable ? byte : 256 + next++;
  if (code < 0x80) {
    return std::string(1, static_cast<char>(code));
  }
  return {static_cast<char>(0xc0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3f))};
}

inline Json tiny_tokenizer_json() {
  Json vocab = Json::object();
  Json added = Json::array();
  int id = 0;
  for (const char* token : {"<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"}) {
    vocab[token] = id;
    added.push_back({{"id", id++},
                     {"content", token},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  int next = 0;
  for (int byte = 0; byte < 256; ++byte) {
    vocab[byte_character(byte, next)] = 10 + byte;
  }
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", false}};
  const Json bos = {{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}};
  const Json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const Json other = {{"Sequence", {{"id", "B"}, {"type_id", 1}}}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"post_processor",
           {{"type", "TemplateProcessing"},
            {"single", {bos, text}},
            {"pair", {bos, text, other}},
            {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {0}}, {"tokens", {"<s>"}}}}}}}},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"vocab", vocab},
            {"merges", Json::array()}}}};
}

// "<s><|user|>hi<|assistant|>yo</s>"
constexpr const char* kTinyTemplate =
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role not in ['system', 'user', 'assistant', 'tool'] %}{{ raise_exception('no role ' + m.role) }}"
    "{% endif %}<|{{ m.role }}|>{{ m.content }}"
    "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}";

inline void write_tiny_model(const TempFolder& folder, const std::string& chat_template = kTinyTemplate) {
  folder.write("tokenizer.json", tiny_tokenizer_json().dump());
  Json config = {{"bos_token", "<s>"}, {"eos_token", "</s>"}, {"pad_token", "</s>"}};
  if (!chat_template.empty()) {
    config["chat_template"] = chat_template;
  }
  folder.write("tokenizer_config.json", config.dump());
}

// `chat_template` empty: a base model without one.
inline std::shared_ptr<const Tokenizer> tiny_tokenizer(const std::string& chat_template = kTinyTemplate) {
  const TempFolder folder;
  write_tiny_model(folder, chat_template);
  return Tokenizer::load(folder.path());
}

} // namespace temper::test
