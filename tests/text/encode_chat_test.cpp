#include "temper/text/encode_chat.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "text/fixtures.h"

namespace temper {
namespace {

using test::fixture;

using Mask = std::vector<std::uint8_t>;

const Json kChat = Json::parse(R"([
  {"role": "user", "content": "What is the sea?"}, {"role": "assistant", "content": "The sea\n\n is warm. 😀"},
  {"role": "user", "content": "And the sun?"}, {"role": "assistant", "content": "The sun, too."}])");

std::string supervised_text(const Tokenizer& tokenizer, const EncodedChat& chat) {
  std::vector<std::int32_t> kept;
  for (std::size_t i = 0; i < chat.ids.size(); ++i) {
    if (chat.supervised[i] != 0) {
      kept.push_back(chat.ids[i]);
    }
  }
  return tokenizer.decode(kept, false);
}

TEST_CASE("rule 3: BOS is decided per rendered prompt, never doubled") {
  const auto tokenizer = Tokenizer::load(fixture("bytelevel"));
  REQUIRE(tokenizer->encode("x", true).front() == tokenizer->bos_id()); // plain text gets one
  const auto count_bos = [&](const std::string& source) {
    const ChatTemplate chat_template(source, {{"bos_token", "<|begin_of_text|>"}});
    const auto chat = encode_chat(*tokenizer, chat_template.render_with_spans(kChat));
    return std::count(chat.ids.begin(), chat.ids.end(), *tokenizer->bos_id());
  };
  const std::string body = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|eot_id|>{% endfor %}";
  CHECK(count_bos("{{ bos_token }}" + body) == 1); // the template writes it
  CHECK(count_bos(body) == 0);                     // the template does not: as transformers, none is added
  const auto prompt = tokenizer->chat_template()->render(kChat, {.add_generation_prompt = true});
  const auto ids = encode_rendered(*tokenizer, prompt);
  CHECK(ids[0] == tokenizer->bos_id());
  CHECK(ids[1] != tokenizer->bos_id());
}

TEST_CASE("rule 4: masks equal transformers' assistant_masks") {
  const auto tokenizer = Tokenizer::load(fixture("bytelevel"));
  const Json fixtures = read_json(fixture("masks.json"));
  const ChatTemplate chat_template(fixtures["source"].get<std::string>(), fixtures["specials"]);
  CHECK(fixtures["cases"].size() == 4);
  for (const Json& expected : fixtures["cases"]) {
    const auto chat = encode_chat(
        *tokenizer, chat_template.render_with_spans(expected["messages"], test::options_of(expected)));
    CHECK(chat.ids == expected["ids"].get<std::vector<std::int32_t>>());
    CHECK(chat.supervised == expected["mask"].get<Mask>());
  }
}

TEST_CASE("rule 4: every assistant turn is supervised, to its end token, and nothing else is") {
  const auto llama3 = Tokenizer::load(fixture("bytelevel"));
  const auto chat = encode_chat(*llama3, llama3->chat_template()->render_with_spans(kChat));
  CHECK(supervised_text(*llama3, chat) == "The sea\n\n is warm. 😀<|eot_id|>The sun, too.<|eot_id|>");

  const auto llama2 = Tokenizer::load(fixture("spm_bpe"));
  const auto spm = encode_chat(*llama2, llama2->chat_template()->render_with_spans(kChat));
  CHECK(supervised_text(*llama2, spm) == "The sea\n\n is warm. 😀 </s> The sun, too. </s>");
}

TEST_CASE("a token counts if a span touches it") {
  const std::vector<TextSpan> tokens = {{0, 0}, {0, 4}, {4, 6}, {6, 6}, {6, 9}, {9, 9}, {9, 12}, {0, 0}};
  CHECK(supervised_mask(tokens, std::vector<TextSpan>{{5, 9}}) == Mask{0, 0, 1, 1, 1, 1, 0, 0});
  CHECK(supervised_mask(tokens, std::vector<TextSpan>{{6, 9}}) == Mask{0, 0, 0, 0, 1, 1, 0, 0});
  CHECK(supervised_mask(tokens, std::vector<TextSpan>{{1, 2}, {10, 11}}) == Mask{0, 1, 0, 0, 0, 0, 1, 0});
  CHECK(supervised_mask(tokens, std::vector<TextSpan>{{2, 2}, {5, 5}}) == Mask(8, 0));
  CHECK(supervised_mask(tokens, std::vector<TextSpan>{{5, 5}, {5, 6}}) == Mask{0, 0, 1, 1, 0, 0, 0, 0});
  CHECK(supervised_mask(tokens, {}) == Mask(8, 0));
  // Halves of a character share its bytes.
  const std::vector<TextSpan> halves = {{0, 1}, {1, 5}, {1, 5}, {5, 6}};
  CHECK(supervised_mask(halves, std::vector<TextSpan>{{1, 5}}) == Mask{0, 1, 1, 0});
}

} // namespace
} // namespace temper
