#include "temper/text/pretokenizer.h"

#include <doctest/doctest.h>

using namespace temper;
using Tree = nlohmann::json;

namespace {

const char* const kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char* const kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char* const kTekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

Tree byte_level(bool words, bool prefix = false) {
  return {{"type", "ByteLevel"}, {"use_regex", words}, {"add_prefix_space", prefix}};
}

Tree split_by(const char* expression, const char* behavior = "Isolated") {
  const Tree split = {
      {"type", "Split"}, {"pattern", {{"Regex", expression}}}, {"behavior", behavior}, {"invert", false}};
  return {{"type", "Sequence"}, {"pretokenizers", {split, byte_level(false)}}};
}

std::string id(const Tree& pre_tokenizer, bool whole_words = false) {
  return pretokenizer_id({{"pre_tokenizer", pre_tokenizer}, {"model", {{"ignore_merges", whole_words}}}});
}

} // namespace

TEST_CASE("ways of cutting text are recognized by their expressions") {
  CHECK(id(byte_level(true)) == "gpt-2");
  const Tree digits = {{"type", "Digits"}, {"individual_digits", true}};
  CHECK(id({{"type", "Sequence"}, {"pretokenizers", {digits, byte_level(true)}}}) == "smollm");
  CHECK(id(split_by(kLlama3), true) == "llama-bpe");
  CHECK(id(split_by(kLlama3), false) == "smaug-bpe");
  CHECK(id(split_by(kQwen2)) == "qwen2");
  CHECK(id(split_by(kTekken), true) == "tekken");
}

TEST_CASE("what differs in the least is not recognized, but described") {
  CHECK(id(byte_level(true, true)).empty());
  CHECK(id(byte_level(false)).empty());
  CHECK(id(split_by(kLlama3, "MergedWithPrevious")).empty());
  CHECK(id(split_by("[a-z]+")).empty());
  CHECK(id(nullptr).empty());
  CHECK(describe_pretokenizer({{"pre_tokenizer", split_by("[a-z]+")}}) == "split [a-z]+ | bytelevel");
  CHECK(describe_pretokenizer({{"pre_tokenizer", {{"type", "WhitespaceSplit"}}}}) == "WhitespaceSplit");
  CHECK(describe_pretokenizer(Tree::object()) == "none");
}
