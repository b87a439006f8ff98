#include "temper/infer/generate.h"

#include <doctest/doctest.h>

#include "infer/tiny.h"
#include "temper/base/error.h"
#include "temper/infer/prompt.h"

using namespace temper;
using namespace temper::test;

namespace {

struct Tiny {
  Model model = fixture("llama2");
  std::shared_ptr<const Tokenizer> tokenizer = tiny_tokenizer();
  Tokens prompt = some_tokens(9, 1);
  Tokens greedy = greedy_without_cache(ModelView(model), prompt, 24);
};

const Tiny& tiny() {
  static const Tiny kTiny;
  return kTiny;
}

GenerationOptions length(int max_tokens) {
  GenerationOptions options;
  options.max_tokens = max_tokens;
  options.stop_at_eos = false;
  return options;
}

GenerationResult generate(const GenerationOptions& options, const TextCallback& on_text = nullptr) {
  Generator generator(ModelView(tiny().model), tiny().tokenizer);
  return generator.generate(tiny().prompt, options, on_text);
}

// The greedy text of `count` tokens; they must all be words.
std::string greedy_text(std::size_t count) {
  const Tokens some(tiny().greedy.begin(), tiny().greedy.begin() + static_cast<std::ptrdiff_t>(count));
  for (const auto id : some) {
    REQUIRE(id >= 3);
  }
  return words(some);
}

} // namespace

TEST_CASE("an answer ends after max_tokens and says so") {
  const auto result = generate(length(10));
  CHECK(result.tokens == Tokens(tiny().greedy.begin(), tiny().greedy.begin() + 10));
  CHECK(result.text == greedy_text(10));
  CHECK(result.finish_reason == "length");
  CHECK(result.prompt_tokens == 9);
  CHECK(result.reused_tokens == 0);
  CHECK(result.prompt_tokens_per_second() > 0);
  CHECK(result.tokens_per_second() > 0);
  CHECK(result.peak_bytes > 0);
  CHECK(generate(length(1)).tokens.size() == 1);
}

TEST_CASE("what was streamed is the text") {
  std::string streamed;
  int calls = 0;
  const auto result = generate(length(12), [&](std::string_view text) {
    streamed += text;
    ++calls;
    return true;
  });
  CHECK(streamed == result.text);
  CHECK(calls >= 12);
}

TEST_CASE("a stop token ends the answer and is not part of it") {
  // The model's own likeliest token plays the end of sequence: a tokenizer that gives it that meaning.
  const TemporaryFolder folder;
  write_tokenizer(folder.path());
  const auto at = 5;
  write_json(folder.path() / "generation_config.json", {{"eos_token_id", {2, tiny().greedy[at]}}});
  const auto first = std::find(tiny().greedy.begin(), tiny().greedy.end(), tiny().greedy[at]);
  Generator generator(ModelView(tiny().model), Tokenizer::load(folder.path()));
  GenerationOptions options;
  options.max_tokens = 20;
  const auto result = generator.generate(tiny().prompt, options);
  CHECK(result.finish_reason == "stop");
  CHECK(result.tokens == Tokens(tiny().greedy.begin(), first));
  CHECK(result.text == words(result.tokens));
}

TEST_CASE("a stop string ends the answer wherever the tokens' borders fall") {
  const auto text = greedy_text(12);
  auto options = length(12);
  // From the second letter of the fifth word to the first of the seventh: three tokens.
  const auto stop = text.substr(9, 4);
  options.stop = {"never", stop};
  std::string streamed;
  const auto result = generate(options, [&](std::string_view part) {
    streamed += part;
    return true;
  });
  CHECK(result.finish_reason == "stop");
  CHECK(result.text == text.substr(0, text.find(stop)));
  CHECK(streamed == result.text);
  CHECK(result.tokens.size() == 7);
}

TEST_CASE("text that only begins like a stop string comes out after all") {
  auto options = length(6);
  const auto text = greedy_text(6);
  options.stop = {text.substr(text.size() - 3) + "?"};
  const auto result = generate(options);
  CHECK(result.text == text);
  CHECK(result.finish_reason == "length");
}

TEST_CASE("a caller may end the answer") {
  int calls = 0;
  const auto result = generate(length(20), [&](std::string_view) { return ++calls < 4; });
  CHECK(result.finish_reason == "cancelled");
  CHECK(result.tokens.size() == 4);

  auto options = length(20);
  int asked = 0;
  options.cancelled = [&] { return ++asked > 5; };
  const auto second = generate(options);
  CHECK(second.finish_reason == "cancelled");
  CHECK(second.tokens.size() == 5);

  options.cancelled = [] { return true; };
  CHECK(generate(options).tokens.empty());
}

TEST_CASE("a chat goes on from its cache with the answers of a fresh start") {
  Generator chat(ModelView(tiny().model), tiny().tokenizer);
  const auto first = chat.generate(tiny().prompt, length(6));
  auto next = tiny().prompt;
  next.insert(next.end(), first.tokens.begin(), first.tokens.end());
  next.push_back(17);
  const auto second = chat.generate(next, length(8));
  CHECK(second.reused_tokens >= 14);
  chat.reset();
  const auto fresh = chat.generate(next, length(8));
  CHECK(fresh.reused_tokens == 0);
  CHECK(fresh.tokens == second.tokens);
}

TEST_CASE("options out of range are refused before anything runs") {
  auto options = length(0);
  CHECK_THROWS_WITH_AS(generate(options), "max_tokens: 0 given; it must be at least 1", ConfigError);
  options = length(1);
  options.sampling.temperature = -1;
  CHECK_THROWS_AS(generate(options), ConfigError);
  options = length(1);
  options.stop = {""};
  CHECK_THROWS_AS(generate(options), ConfigError);
}

TEST_CASE("rule 3: a prompt has one BOS, whoever writes it") {
  const auto& plain = *tiny().tokenizer;
  CHECK(encode_plain(plain, "ab cd") == Tokens{1, 4, 58});
  CHECK(encode_plain(plain, "<s>ab cd") == Tokens{1, 4, 58});
  CHECK(encode_prompt(plain, "ab") == Tokens{1, 4}); // no chat template: as it stands

  const auto with_bos = tiny_tokenizer(
      "{{ bos_token }}{% for m in messages %} {{ m.content }} {% endfor %}"
      "{% if add_generation_prompt %} ba{% endif %}");
  CHECK(encode_prompt(*with_bos, "ab cd") == Tokens{1, 4, 58, 29});
  CHECK(encode_prompt(*with_bos, "ab", {.system = "ac"}) == Tokens{1, 5, 4, 29});
  CHECK(encode_prompt(*with_bos, "ab", {.raw = true}) == Tokens{1, 4});
  const auto without = tiny_tokenizer("{% for m in messages %} {{ m.content }} {% endfor %}{{ mark }}");
  CHECK(encode_prompt(*without, "ab", {.variables = {{"mark", "ac"}}}) == Tokens{4, 5});
}

TEST_CASE("an empty prompt is refused") {
  CHECK_THROWS_WITH_AS(encode_prompt(*tiny().tokenizer, ""), "prompt: it is empty; say something", ConfigError);
  CHECK_THROWS_AS(encode_messages(*tiny().tokenizer, Json::array()), ModelError);
}
