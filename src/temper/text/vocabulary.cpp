#include "temper/text/vocabulary.h"

#include <algorithm>
#include <functional>
#include <set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "temper/base/base64.h"
#include "temper/base/error.h"
#include "temper/base/json_text.h"
#include "temper/text/pretokenizer.h"

namespace temper {
namespace {

using Tree = nlohmann::json; // sorted keys: a vocabulary is an object of many

const std::string kSpaceMark = "\xe2\x96\x81"; // U+2581, SentencePiece's space
constexpr float kNeverMerged = -1e9F;

bool flag(const Tree& node, const char* name) {
  return node.is_object() && node.contains(name) && node[name].is_boolean() && node[name].get<bool>();
}

// Every step of a normalizer, pre-tokenizer or decoder, those of sequences one by one.
std::vector<Tree> steps_of(const Tree& tokenizer, const char* part) {
  std::vector<Tree> steps;
  const auto add = [&](const auto& self, const Tree& node) -> void {
    for (const char* list : {"normalizers", "pretokenizers"}) {
      if (node.is_object() && node.contains(list) && node[list].is_array()) {
        for (const auto& step : node[list]) {
          self(self, step);
        }
        return;
      }
    }
    if (node.is_object()) {
      steps.push_back(node);
    }
  };
  if (tokenizer.contains(part)) {
    add(add, tokenizer[part]);
  }
  return steps;
}

bool any_step(const Tree& tokenizer, const char* part, const std::function<bool(const Tree&)>& is) {
  const auto steps = steps_of(tokenizer, part);
  return std::any_of(steps.begin(), steps.end(), is);
}

bool is_byte_level(const Tree& tokenizer) {
  return any_step(tokenizer, "pre_tokenizer", [](const Tree& s) { return text_at(s, "type") == "ByteLevel"; });
}

// Spaces become marks, as in SentencePiece.
bool marks_spaces(const Tree& tokenizer) {
  const auto replaces = [](const Tree& s) {
    return text_at(s, "type") == "Replace" && text_at(s, "content") == kSpaceMark;
  };
  return any_step(tokenizer, "normalizer", replaces) ||
         any_step(tokenizer, "pre_tokenizer", [](const Tree& s) { return text_at(s, "type") == "Metaspace"; });
}

bool prefixes_space(const Tree& tokenizer) {
  const auto prepends = [](const Tree& s) {
    return text_at(s, "type") == "Prepend" && text_at(s, "prepend") == kSpaceMark;
  };
  const auto metaspace = [](const Tree& s) {
    const auto scheme = text_at(s, "prepend_scheme");
    return text_at(s, "type") == "Metaspace" &&
           (scheme.empty() ? !s.contains("add_prefix_space") || flag(s, "add_prefix_space")
                           : scheme != "never");
  };
  return any_step(tokenizer, "normalizer", prepends) || any_step(tokenizer, "pre_tokenizer", metaspace);
}

// SentencePiece, and llama.cpp, put a space before every piece of text; newer tokenizers only before the first,
// and before none that begins with one.
void note_prefix(const Tree& tokenizer, Vocabulary& vocabulary) {
  const auto once = [](const Tree& s) { return text_at(s, "type") == "Metaspace"; };
  if (vocabulary.model == "llama" && *vocabulary.add_space_prefix &&
      any_step(tokenizer, "pre_tokenizer", once)) {
    vocabulary.notes.push_back(
        "llama.cpp puts a space before text that begins with one or follows a special token, this tokenizer "
        "does "
        "not: such text is tokenized otherwise there");
  }
}

bool is_byte_token(const std::string& token) {
  return token.size() == 6 && token.starts_with("<0x") && token.back() == '>' &&
         token.find_first_not_of("0123456789ABCDEF", 3) == 5;
}

void add_tokens(const Tokenizer& tokenizer, const Tree& tree, int rows, Vocabulary& vocabulary) {
  std::map<int, bool> added; // id: special
  for (const auto& token : tree.value("added_tokens", Tree::array())) {
    added[token.value("id", -1)] = flag(token, "special");
    vocabulary.strips_after_specials = vocabulary.strips_after_specials || flag(token, "rstrip");
  }
  const auto unk = text_at(tree["model"], "unk_token");
  const bool bytes = flag(tree["model"], "byte_fallback");
  std::set<std::string> seen;
  for (int id = 0; id < rows; ++id) {
    auto text = tokenizer.id_to_token(id);
    auto type = TokenType::normal;
    if (const auto found = added.find(id); found != added.end()) {
      type = found->second ? TokenType::control : TokenType::user_defined;
    } else if (bytes && is_byte_token(text)) {
      type = TokenType::byte;
    }
    if (!unk.empty() && text == unk) {
      type = TokenType::unknown;
    }
    if (type == TokenType::user_defined && vocabulary.model != "gpt2") {
      for (auto at = text.find(kSpaceMark); at != std::string::npos; at = text.find(kSpaceMark)) {
        text.replace(at, kSpaceMark.size(), " ");
      }
    }
    // llama.cpp wants tokens to differ.
    if (text.empty() || !seen.insert(text).second) {
      text = fmt::format("[PAD{}]", id);
      seen.insert(text);
      type = TokenType::unused;
    }
    vocabulary.tokens.push_back(std::move(text));
    vocabulary.types.push_back(type);
  }
  if (tokenizer.vocab_size() > rows) {
    vocabulary.notes.push_back(
        fmt::format("the tokenizer's tokens from {} on have no row in the model: left out", rows));
  }
}

// Both sides of merge `i`; tokenizer.json holds it as a pair or as one string.
std::pair<std::string, std::string> merge_of(const Tree& merge) {
  if (merge.is_array() && merge.size() == 2) {
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  }
  const auto text = merge.get<std::string>();
  const auto space = text.find(' ', 1);
  return {text.substr(0, space), space == std::string::npos ? "" : text.substr(space + 1)};
}

void add_merges(const Tree& model, Vocabulary& vocabulary) {
  for (const auto& merge : model.value("merges", Tree::array())) {
    const auto [left, right] = merge_of(merge);
    vocabulary.merges.push_back(left + " " + right);
  }
}

// SentencePiece merges the pair whose token has the highest score: the sooner its merge, the higher.
void add_scores_of_merges(const Tree& model, Vocabulary& vocabulary) {
  std::map<std::string, float> scores;
  float rank = 0.0F;
  for (const auto& merge : model.value("merges", Tree::array())) {
    const auto [left, right] = merge_of(merge);
    scores.emplace(left + right, rank);
    rank -= 1.0F;
  }
  for (std::size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const auto found = scores.find(vocabulary.tokens[i]);
    const bool plain = vocabulary.types[i] == TokenType::normal;
    vocabulary.scores.push_back(!plain ? 0.0F : found != scores.end() ? found->second : kNeverMerged);
  }
}

void add_unigrams(const Tree& tree, Vocabulary& vocabulary) {
  const auto pieces = tree["model"].value("vocab", Tree::array());
  for (std::size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const bool scored = i < pieces.size() && pieces[i].is_array() && pieces[i].size() == 2;
    vocabulary.scores.push_back(scored ? pieces[i][1].get<float>() : 0.0F);
  }
  if (const auto unk = tree["model"].find("unk_id"); unk != tree["model"].end() && unk->is_number_integer()) {
    vocabulary.unk = unk->get<std::int32_t>();
    const auto at = static_cast<std::size_t>(*vocabulary.unk);
    if (at < vocabulary.types.size()) {
      vocabulary.types[at] = TokenType::unknown;
    }
  }
  bool squeezes = false;
  for (const auto& step : steps_of(tree, "normalizer")) {
    if (text_at(step, "type") == "Precompiled") {
      const auto bytes = decode_base64(text_at(step, "precompiled_charsmap"));
      vocabulary.charsmap.assign(bytes.begin(), bytes.end());
    }
    const auto pattern = step.contains("pattern") ? text_at(step["pattern"], "Regex") : "";
    squeezes = squeezes || pattern == " {2,}" || pattern == "\\s+";
  }
  vocabulary.remove_extra_whitespaces = squeezes;
}

void add_special_ids(const Tokenizer& tokenizer, const Tree& tree, const std::string& origin,
                     Vocabulary& vocabulary) {
  vocabulary.bos = tokenizer.bos_id();
  vocabulary.eos = tokenizer.eos_id();
  vocabulary.pad = tokenizer.pad_id();
  for (const auto id : tokenizer.stop_ids()) {
    if (!vocabulary.eos) {
      vocabulary.eos = id;
    } else if (id != *vocabulary.eos) {
      auto& place = !vocabulary.eot ? vocabulary.eot : vocabulary.eom;
      if (place && *place != id) {
        vocabulary.notes.push_back("llama.cpp has no place for a further stop token, " +
                                   tokenizer.id_to_token(id));
      } else {
        place = id;
      }
    }
  }
  if (!vocabulary.eos) {
    throw ModelError(origin +
                     ": the tokenizer names no EOS token, without which llama.cpp would take another: "
                     "set eos_token in tokenizer_config.json");
  }
  if (const auto unk = text_at(tree["model"], "unk_token"); !unk.empty()) {
    vocabulary.unk = tokenizer.token_to_id(unk);
  }
  const auto empty = tokenizer.encode("", true);
  vocabulary.add_bos = vocabulary.bos && !empty.empty() && empty.front() == *vocabulary.bos;
  vocabulary.add_eos = empty.size() > (vocabulary.add_bos ? 1U : 0U) && empty.back() == *vocabulary.eos;
  if (empty.size() != (vocabulary.add_bos ? 1U : 0U) + (vocabulary.add_eos ? 1U : 0U)) {
    vocabulary.notes.push_back("the tokenizer adds tokens other than BOS and EOS, llama.cpp will not");
  }
}

// model and pre.
void find_kind(const Tree& tree, const std::string& pre, const std::string& origin, Vocabulary& vocabulary) {
  const auto type = text_at(tree["model"], "type");
  vocabulary.pre = "default";
  if (type == "Unigram" && !flag(tree["model"], "byte_fallback")) {
    vocabulary.model = "t5";
  } else if (type == "BPE" && is_byte_level(tree)) {
    vocabulary.model = "gpt2";
    vocabulary.pre = pre.empty() ? pretokenizer_id(tree) : pre;
  } else if (type == "BPE" && marks_spaces(tree)) {
    vocabulary.model = "llama";
  } else {
    throw ModelError(origin + ": llama.cpp has no tokenizer of this kind: " + type +
                     (type == "BPE"       ? " neither of bytes nor of SentencePiece"
                      : type == "Unigram" ? " with bytes for unknown characters"
                                          : ""));
  }
  if (vocabulary.pre.empty()) {
    throw ModelError(origin + ": the tokenizer cuts text in a way that no known model does (" +
                     describe_pretokenizer(tree) +
                     "); if llama.cpp knows it, give its name for it with --pre, as --pre llama-bpe");
  }
}

} // namespace

Vocabulary read_vocabulary(const Tokenizer& tokenizer, int rows, const std::string& pre,
                           const std::string& origin) {
  const auto tree = Tree::parse(tokenizer.to_json());
  Vocabulary vocabulary;
  find_kind(tree, pre, origin, vocabulary);
  add_tokens(tokenizer, tree, rows, vocabulary);
  if (vocabulary.model == "gpt2") {
    add_merges(tree["model"], vocabulary);
  } else {
    vocabulary.add_space_prefix = prefixes_space(tree);
    note_prefix(tree, vocabulary);
    if (vocabulary.model == "llama") {
      add_scores_of_merges(tree["model"], vocabulary);
    } else {
      add_unigrams(tree, vocabulary);
    }
  }
  add_special_ids(tokenizer, tree, origin, vocabulary);
  for (const auto& name : tokenizer.chat_template_names()) {
    vocabulary.templates[name] = tokenizer.chat_template(name)->source();
  }
  vocabulary.tokenizer_json = tree.dump(-1, ' ', false, Tree::error_handler_t::replace);
  return vocabulary;
}

} // namespace temper
