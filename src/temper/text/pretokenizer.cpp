#include "temper/text/pretokenizer.h"

#include <string>
#include <string_view>
#include <vector>

#include "temper/base/json_text.h"

namespace temper {
namespace {

using Tree = nlohmann::json; // sorted keys: a vocabulary is an object of many

constexpr std::string_view kContractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";

// The expressions that models were published with, from their tokenizer.json files.
std::string llama3_words(std::string_view digits) {
  return std::string(kContractions) + "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" + std::string(digits) +
         "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
}

std::string gpt4o_words(std::string_view contractions, std::string_view digits) {
  const std::string end(contractions);
  return "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+" + end +
         "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*" + end +
         "|" + std::string(digits) + "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
}

const std::string kQwen35Words =
    std::string(kContractions) +
    "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"
    "\\s+(?!\\S)|\\s+";

struct Known {
  std::string steps;
  const char* id;
  const char* id_without_merges; // where whole words of the vocabulary are taken as they are
};

const std::vector<Known>& known() {
  const auto split = [](const std::string& words) { return "split " + words + " | bytelevel"; };
  static const std::vector<Known> kAll{
      {"bytelevel, words", "gpt-2", "gpt-2"},
      {"digits | bytelevel, words", "smollm", "smollm"},
      {split(llama3_words("\\p{N}{1,3}")), "smaug-bpe", "llama-bpe"},
      {split(llama3_words("\\p{N}")), "qwen2", "qwen2"},
      {split(kQwen35Words), "qwen35", "qwen35"},
      {split(gpt4o_words("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "\\p{N}{1,3}")), "gpt-4o", "gpt-4o"},
      {split(gpt4o_words("", "\\p{N}")), "tekken", "tekken"},
  };
  return kAll;
}

bool flag(const Tree& step, const char* name, bool otherwise) {
  return step.contains(name) && step[name].is_boolean() ? step[name].get<bool>() : otherwise;
}

std::string describe(const Tree& step) {
  const auto type = text_at(step, "type");
  if (type == "Sequence" && step.contains("pretokenizers") && step["pretokenizers"].is_array()) {
    std::string all;
    for (const auto& part : step["pretokenizers"]) {
      all += (all.empty() ? "" : " | ") + describe(part);
    }
    return all;
  }
  if (type == "ByteLevel") {
    return std::string("bytelevel") + (flag(step, "use_regex", true) ? ", words" : "") +
           (flag(step, "add_prefix_space", true) ? ", prefix space" : "");
  }
  if (type == "Digits") {
    return flag(step, "individual_digits", false) ? "digits" : "numbers";
  }
  if (type == "Split" && step.contains("pattern") && step["pattern"].is_object()) {
    const bool inverted = flag(step, "invert", false);
    const auto behavior = text_at(step, "behavior");
    const bool cuts = (behavior == "Isolated" && !inverted) || (behavior == "Removed" && inverted);
    const auto expression = text_at(step["pattern"], "Regex");
    const auto text = expression.empty() ? "'" + text_at(step["pattern"], "String") + "'" : expression;
    return "split " + text + (cuts ? "" : " (" + behavior + ")");
  }
  return type.empty() ? "none" : type;
}

} // namespace

std::string describe_pretokenizer(const Tree& tokenizer) {
  const auto found = tokenizer.find("pre_tokenizer");
  return found == tokenizer.end() || !found->is_object() ? "none" : describe(*found);
}

std::string pretokenizer_id(const Tree& tokenizer) {
  const auto steps = describe_pretokenizer(tokenizer);
  const auto model = tokenizer.find("model");
  const bool whole_words = model != tokenizer.end() && flag(*model, "ignore_merges", false);
  for (const auto& candidate : known()) {
    if (candidate.steps == steps) {
      return whole_words ? candidate.id_without_merges : candidate.id;
    }
  }
  return {};
}

} // namespace temper
