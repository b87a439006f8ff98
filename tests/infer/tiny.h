// What the tests of generation and evaluation share: fixture models, a tokenizer for them, and generation
// the slow way, a whole forward pass for each token.
#pragma once

#include <doctest/doctest.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <vector>

#include "temper/base/json.h"
#include "temper/infer/model_view.h"
#include "temper/text/tokenizer.h"

namespace temper::test {

using Tokens = std::vector<std::int32_t>;

inline const std::vector<std::string>& fixture_names() {
  static const std::vector<std::string> kNames{"llama2", "llama32", "mistral",  "linear", "dynamic", "yarn",
                                               "biases", "sharded", "yarn_old", "fp16",   "bf16"};
  return kNames;
}

inline Model fixture(const std::string& name) {
  return load_model(std::filesystem::path(TEMPER_TEST_DATA) / "llama" / name, "float32");
}

// A folder that goes away with its owner.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    static std::atomic<int> count{0};
    path_ = std::filesystem::temp_directory_path() /
            ("temper-infer-" + std::to_string(::getpid()) + "-" + std::to_string(count++));
    std::filesystem::create_directories(path_);
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const {
    return path_;
  }

 private:
  std::filesystem::path path_;
};

// Token id's text: two letters, "aa" for 3, "ab" for 4 ...
inline std::string word(std::int32_t id) {
  return {static_cast<char>('a' + (id - 3) / 26), static_cast<char>('a' + (id - 3) % 26)};
}

inline std::string words(const Tokens& ids) {
  std::string text;
  for (const auto id : ids) {
    text += word(id);
  }
  return text;
}

// Writes a tokenizer of 128 two-letter words, split at spaces and joined without them: <unk>, <s>, </s> first.
inline void write_tokenizer(const std::filesystem::path& folder, const std::string& chat_template = "") {
  Json vocab = {{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}};
  for (std::int32_t id = 3; id < 128; ++id) {
    vocab[word(id)] = id;
  }
  auto added = Json::array();
  for (const auto& [id, content] : std::vector<std::pair<int, std::string>>{{1, "<s>"}, {2, "</s>"}}) {
    added.push_back({{"id", id},
                     {"content", content},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  const Json bos = {{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}};
  const Json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const Json post = {
      {"type", "TemplateProcessing"},
      {"single", Json::array({bos, text})},
      {"pair", Json::array({bos, text})},
      {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {1}}, {"tokens", {"<s>"}}}}}},
  };
  write_json(folder / "tokenizer.json",
             {{"version", "1.0"},
              {"added_tokens", added},
              {"normalizer", nullptr},
              {"pre_tokenizer", {{"type", "WhitespaceSplit"}}},
              {"post_processor", post},
              {"decoder", {{"type", "Fuse"}}},
              {"model", {{"type", "WordLevel"}, {"vocab", vocab}, {"unk_token", "<unk>"}}}});
  Json config = {{"bos_token", "<s>"}, {"eos_token", "</s>"}};
  if (!chat_template.empty()) {
    config["chat_template"] = chat_template;
  }
  write_json(folder / "tokenizer_config.json", config);
}

inline std::shared_ptr<const Tokenizer> tiny_tokenizer(const std::string& chat_template = "") {
  const TemporaryFolder folder;
  write_tokenizer(folder.path(), chat_template);
  return Tokenizer::load(folder.path());
}

// Logits [T, V] of a text, without a cache.
inline mx::array full_logits(const ModelView& model, const Tokens& tokens) {
  ForwardContext context{model.params, model.lora, std::nullopt};
  const mx::array input(tokens.data(), {1, static_cast<int>(tokens.size())}, mx::int32);
  const auto hidden = decoder_hidden(*model.spec, context, {.tokens_BT = input});
  return mx::squeeze(decoder_logits(*model.spec, context, hidden), 0);
}

inline Tokens greedy_without_cache(const ModelView& model, Tokens text, int count) {
  const auto prompt = text.size();
  for (int i = 0; i < count; ++i) {
    const auto best = mx::astype(mx::argmax(full_logits(model, text), 1), mx::int32);
    mx::eval(best);
    text.push_back(best.data<std::int32_t>()[text.size() - 1]);
  }
  return {text.begin() + static_cast<std::ptrdiff_t>(prompt), text.end()};
}

inline Tokens some_tokens(int count, int seed) {
  Tokens tokens;
  auto state = static_cast<std::uint32_t>(seed) * 2654435761U + 1U;
  for (int i = 0; i < count; ++i) {
    state = state * 1664525U + 1013904223U;
    tokens.push_back(static_cast<std::int32_t>(3 + (state >> 16) % 120));
  }
  return tokens;
}

} // namespace temper::test
