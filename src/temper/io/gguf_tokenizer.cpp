#include "temper/io/gguf_tokenizer.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "temper/base/error.h"
#include "temper/base/json.h"
#include "temper/base/log.h"

namespace temper {
namespace {

// Of a token, as SentencePiece and llama.cpp number them.
enum Kind : std::int64_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

// Text is cut by these expressions, one after another, before it is merged; the hub's models have them in their
// tokenizer.json. Source: src/llama-vocab.cpp of llama.cpp (MIT) for which name stands for which.
struct PreTokenizer {
  std::vector<const char*> names;
  std::vector<const char*> patterns;
  bool own_words = true; // then ByteLevel's own expression, GPT-2's
  bool ignore_merges = false;
  bool adds_bos = false;
  bool composes = false; // to Unicode's form NFC
};

constexpr const char* kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen35 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kTekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kGpt4o =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S))";

const std::vector<PreTokenizer>& pre_tokenizers() {
  static const std::vector<PreTokenizer> kAll{
      {{"gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "exaone4", "granite-docling", "a.x-4.0", "mellum"},
       {}},
      {{"smollm", "refact", "starcoder", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"},
       {R"(\p{N})"}},
      {{"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"},
       {kLlama3},
       false,
       true,
       true},
      {{"dbrx", "smaug-bpe", "chatglm-bpe"}, {kLlama3}, false},
      {{"glm4"}, {kLlama3}, false, true},
      {{"qwen2", "deepseek-r1-qwen"}, {kQwen2}, false, false, false, true},
      {{"stablelm2", "megrez", "hunyuan", "solar-open", "grok-2"}, {kQwen2}, false},
      {{"qwen35"}, {kQwen35}, false, false, false, true},
      {{"tekken"}, {kTekken}, false, true, true},
      {{"gpt-4o", "llama4", "kanana2", "minimax-m2"}, {kGpt4o}, false},
      {{"default"}, {R"([\p{P}\$\+<=>\^~\|]+)", kGpt2, R"(\p{N}+)", "[0-9][0-9][0-9]"}, false},
  };
  return kAll;
}

class Vocabulary {
 public:
  explicit Vocabulary(const GgufHeader& header) : header_(header) {
    const auto* list = header.texts("tokenizer.ggml.tokens");
    if (list == nullptr || list->empty()) {
      fail("metadata key tokenizer.ggml.tokens is missing");
    }
    tokens_ = list;
    kinds_ = header.integers("tokenizer.ggml.token_type").value_or(std::vector<std::int64_t>());
    scores_ = header.numbers("tokenizer.ggml.scores").value_or(std::vector<double>());
    if ((!kinds_.empty() && kinds_.size() != tokens_->size()) ||
        (!scores_.empty() && scores_.size() != tokens_->size())) {
      fail("tokenizer.ggml.tokens, token_type and scores differ in length");
    }
  }

  const GgufHeader& header() const {
    return header_;
  }
  const std::vector<std::string>& tokens() const {
    return *tokens_;
  }
  std::int64_t kind(std::size_t id) const {
    return kinds_.empty() ? kNormal : kinds_[id];
  }
  float score(std::size_t id) const {
    return scores_.empty() ? 0.0F : static_cast<float>(scores_[id]);
  }
  // The token that "tokenizer.ggml.<name>_token_id" names.
  std::optional<std::size_t> special(const std::string& name) const {
    const auto key = "tokenizer.ggml." + name + "_token_id";
    const auto id = header_.integer(key);
    if (!id || *id == 0xffffffff) { // none
      return std::nullopt;
    }
    if (*id < 0 || *id >= static_cast<std::int64_t>(tokens_->size())) {
      fail("metadata key " + key + " is " + std::to_string(*id) + ", beyond the vocabulary");
    }
    return static_cast<std::size_t>(*id);
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw ModelError(header_.path.string() + ": " + what);
  }

 private:
  const GgufHeader& header_;
  const std::vector<std::string>* tokens_ = nullptr;
  std::vector<std::int64_t> kinds_;
  std::vector<double> scores_;
};

const PreTokenizer& find_pre_tokenizer(const Vocabulary& vocabulary) {
  const auto* name = vocabulary.header().text("tokenizer.ggml.pre");
  if (name == nullptr) {
    log::warn(
        vocabulary.header().path.string() +
        ": tokenizer.ggml.pre is missing; text is cut as llama.cpp does by default, which may not be as the "
        "model learned it");
  }
  const std::string wanted = name != nullptr ? *name : "default";
  std::string known;
  for (const auto& pre : pre_tokenizers()) {
    for (const char* each : pre.names) {
      if (wanted == each) {
        return pre;
      }
      known += (known.empty() ? "" : ", ") + std::string(each);
    }
  }
  vocabulary.fail("tokenizer.ggml.pre is " + wanted + ", which is not known here; known are " + known +
                  ". Take the model's folder from the hub instead");
}

Json pre_tokenizer_json(const PreTokenizer& pre) {
  Json steps = Json::array();
  for (const char* pattern : pre.patterns) {
    steps.push_back(
        {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}});
  }
  steps.push_back({{"type", "ByteLevel"},
                   {"add_prefix_space", false},
                   {"trim_offsets", true},
                   {"use_regex", pre.own_words}});
  return {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
}

std::string byte_level_json(const Vocabulary& vocabulary, const PreTokenizer& pre) {
  const auto* merges = vocabulary.header().texts("tokenizer.ggml.merges");
  if (merges == nullptr) {
    vocabulary.fail("metadata key tokenizer.ggml.merges is missing");
  }
  Json vocab = Json::object();
  Json added = Json::array();
  for (std::size_t id = 0; id < vocabulary.tokens().size(); ++id) {
    const auto& token = vocabulary.tokens()[id];
    vocab[token] = id;
    const auto kind = vocabulary.kind(id);
    if (kind == kControl || kind == kUserDefined || kind == kUnknown) {
      added.push_back({{"id", id},
                       {"content", token},
                       {"special", kind != kUserDefined},
                       {"normalized", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"single_word", false}});
    }
  }
  const Json byte_level{
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  return dump({{"version", "1.0"},
               {"truncation", nullptr},
               {"padding", nullptr},
               {"added_tokens", std::move(added)},
               {"normalizer", pre.composes ? Json{{"type", "NFC"}} : Json()},
               {"pre_tokenizer", pre_tokenizer_json(pre)},
               {"post_processor", byte_level},
               {"decoder", byte_level},
               {"model",
                {{"type", "BPE"},
                 {"dropout", nullptr},
                 {"unk_token", nullptr},
                 {"continuing_subword_prefix", nullptr},
                 {"end_of_word_suffix", nullptr},
                 {"fuse_unk", false},
                 {"byte_fallback", false},
                 {"ignore_merges", pre.ignore_merges},
                 {"vocab", std::move(vocab)},
                 {"merges", *merges}}}});
}

// A protobuf message in the making. Source: https://protobuf.dev/programming-guides/encoding.
class Message {
 public:
  Message& integer(int field, std::uint64_t value) {
    varint(static_cast<std::uint64_t>(field) << 3);
    varint(value);
    return *this;
  }
  Message& number(int field, float value) {
    varint(static_cast<std::uint64_t>(field) << 3 | 5);
    const auto bits = std::bit_cast<std::uint32_t>(value);
    for (unsigned shift = 0; shift < 32; shift += 8) {
      bytes_.push_back(static_cast<char>(bits >> shift & 0xff));
    }
    return *this;
  }
  Message& text(int field, std::string_view value) {
    varint(static_cast<std::uint64_t>(field) << 3 | 2);
    varint(value.size());
    bytes_ += value;
    return *this;
  }
  const std::string& bytes() const {
    return bytes_;
  }

 private:
  void varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) {
      bytes_.push_back(static_cast<char>((value & 0x7f) | 0x80));
    }
    bytes_.push_back(static_cast<char>(value));
  }

  std::string bytes_;
};

// sentencepiece_model.proto's ModelProto: 1 pieces, 2 trainer_spec, 3 normalizer_spec.
std::string sentencepiece_model(const Vocabulary& vocabulary, bool unigram) {
  const auto& header = vocabulary.header();
  Message model;
  bool has_bytes = false;
  for (std::size_t id = 0; id < vocabulary.tokens().size(); ++id) {
    const auto kind = vocabulary.kind(id);
    has_bytes = has_bytes || kind == kByte;
    model.text(1, Message()
                      .text(1, vocabulary.tokens()[id])
                      .number(2, vocabulary.score(id))
                      .integer(3, static_cast<std::uint64_t>(std::clamp<std::int64_t>(kind, kNormal, kByte)))
                      .bytes());
  }
  model.text(2, Message().integer(3, unigram ? 1 : 2).integer(35, has_bytes ? 1 : 0).bytes());
  const bool prefix = header.boolean("tokenizer.ggml.add_space_prefix").value_or(true);
  const bool trims = header.boolean("tokenizer.ggml.remove_extra_whitespaces").value_or(false);
  std::string charsmap;
  for (const auto byte :
       header.integers("tokenizer.ggml.precompiled_charsmap").value_or(std::vector<std::int64_t>())) {
    charsmap.push_back(static_cast<char>(byte));
  }
  Message normalizer;
  if (!charsmap.empty()) {
    normalizer.text(2, charsmap);
  }
  model.text(3, normalizer.integer(3, prefix ? 1 : 0).integer(4, trims ? 1 : 0).integer(5, 1).bytes());
  return model.bytes();
}

// What tokenizer_config.json and generation_config.json say: special tokens, and whether they are added.
void add_settings(const Vocabulary& vocabulary, std::optional<bool> adds_bos, bool is_sentencepiece,
                  std::map<std::string, std::string>& files) {
  const auto& header = vocabulary.header();
  Json config = Json::object();
  Json generation = Json::object();
  const std::pair<const char*, const char*> names[] = {
      {"bos", "bos"}, {"eos", "eos"}, {"unknown", "unk"}, {"padding", "pad"}};
  for (const auto& [theirs, ours] : names) {
    if (const auto id = vocabulary.special(theirs)) {
      config[std::string(ours) + "_token"] = vocabulary.tokens()[*id];
      generation[std::string(ours) + "_token_id"] = *id;
    }
  }
  generation.erase("unk_token_id");
  if (const auto id = vocabulary.special("eot"); id && generation.contains("eos_token_id")) {
    generation["eos_token_id"] = Json::array({generation["eos_token_id"], *id});
  }
  if (const auto add = header.boolean("tokenizer.ggml.add_bos_token"); add || adds_bos) {
    config["add_bos_token"] = add.value_or(adds_bos.value_or(false));
  }
  if (const auto add = header.boolean("tokenizer.ggml.add_eos_token")) {
    config["add_eos_token"] = *add;
  }
  if (is_sentencepiece) {
    // llama.cpp puts a space before every piece of text between special tokens, or before none.
    const bool prefix = header.boolean("tokenizer.ggml.add_space_prefix").value_or(true);
    config["legacy"] = prefix;
    config["add_prefix_space"] = prefix;
  }
  files["tokenizer_config.json"] = dump(config);
  files["generation_config.json"] = dump(generation);
}

void add_templates(const GgufHeader& header, std::map<std::string, std::string>& files) {
  if (const auto* source = header.text("tokenizer.chat_template")) {
    files["chat_template.jinja"] = *source;
  }
  if (const auto* names = header.texts("tokenizer.chat_templates")) {
    for (const auto& name : *names) {
      const auto* source = header.text("tokenizer.chat_template." + name);
      const bool is_plain = std::all_of(name.begin(), name.end(), [](char c) {
        return std::isalnum(static_cast<unsigned char>(c)) || c == '_';
      });
      if (source != nullptr && is_plain) {
        files["additional_chat_templates/" + name + ".jinja"] = *source;
      }
    }
  }
}

} // namespace

std::map<std::string, std::string> gguf_tokenizer_files(const GgufHeader& header) {
  std::map<std::string, std::string> files;
  const Vocabulary vocabulary(header);
  const auto* model = header.text("tokenizer.ggml.model");
  const auto* json = header.text("tokenizer.huggingface.json");
  const std::string kind = model != nullptr ? *model : "";
  std::optional<bool> adds_bos;
  bool is_sentencepiece = false;
  if (json != nullptr) {
    files["tokenizer.json"] = *json;
  } else if (kind == "gpt2") {
    const auto& pre = find_pre_tokenizer(vocabulary);
    adds_bos = pre.adds_bos;
    files["tokenizer.json"] = byte_level_json(vocabulary, pre);
  } else if (kind == "llama" || kind == "t5") {
    is_sentencepiece = true;
    files["tokenizer.model"] = sentencepiece_model(vocabulary, kind == "t5");
  } else {
    vocabulary.fail("tokenizer.ggml.model is '" + kind +
                    "'; supported are gpt2 (BPE), llama and t5 (SentencePiece)");
  }
  add_settings(vocabulary, adds_bos, is_sentencepiece, files);
  add_templates(header, files);
  return files;
}

} // namespace temper
