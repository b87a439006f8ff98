#include <doctest/doctest.h>

#include "text/fixtures.h"

namespace temper {
namespace {

using test::fixture;

const std::vector<std::string> kTokenizers = {"bytelevel", "spm_bpe", "spm_unigram_bytes", "wordpiece"};
const std::vector<std::string> kTexts = {
    "Hello, world. This isn't a test!",
    "ʻO wau ʻo Keola; aloha kākou i kēia lā. Ua kiʻekiʻe nā mauna.",
    "日本語のテキスト、中文文本。한국어",
    "family 👩‍👩‍👧‍👦 and flags 🇯🇵🇺🇸 and 😀",
    "tabs\tand\n\nlines\n",
    "",
};

bool is_utf8(const std::string& text) {
  return dump(Json(text)).find("\uFFFD") == std::string::npos;
}

TEST_CASE("pieces join to the whole decoding and are each whole characters") {
  for (const auto& name : kTokenizers) {
    const auto tokenizer = Tokenizer::load(fixture(name));
    for (const auto& text : kTexts) {
      CAPTURE(name);
      CAPTURE(text);
      const auto ids = tokenizer->encode(text, true);
      StreamingDetokenizer stream(tokenizer);
      std::string joined;
      for (const auto id : ids) {
        const auto piece = stream.add(id);
        CHECK(is_utf8(piece));
        joined += piece;
      }
      joined += stream.finish();
      CHECK(joined == tokenizer->decode(ids));
    }
  }
}

TEST_CASE("a character of several tokens appears when its last one arrives") {
  for (const std::string name : {"bytelevel", "spm_bpe"}) {
    CAPTURE(name);
    const auto tokenizer = Tokenizer::load(fixture(name));
    const auto ids = tokenizer->encode("a😀b", false);
    StreamingDetokenizer stream(tokenizer);
    std::vector<std::string> pieces;
    for (const auto id : ids) {
      if (auto piece = stream.add(id); !piece.empty()) {
        pieces.push_back(std::move(piece));
      }
    }
    REQUIRE(ids.size() > 4);
    CHECK(pieces.front() == "a");
    CHECK(pieces.back().ends_with("b"));
    CHECK(stream.finish().empty());
  }
}

TEST_CASE("bytes that never become a character come out at the end, once") {
  for (const std::string name : {"bytelevel", "spm_bpe"}) {
    CAPTURE(name);
    const auto tokenizer = Tokenizer::load(fixture(name));
    auto ids = tokenizer->encode("a😀", false);
    ids.pop_back();
    StreamingDetokenizer stream(tokenizer);
    std::string early;
    for (const auto id : ids) {
      early += stream.add(id);
    }
    CHECK(early == "a");
    CHECK(early + stream.finish() == tokenizer->decode(ids));
    CHECK(stream.finish().empty());
  }
}

TEST_CASE("special tokens print nothing") {
  const auto tokenizer = Tokenizer::load(fixture("bytelevel"));
  StreamingDetokenizer stream(tokenizer);
  CHECK(stream.add(*tokenizer->bos_id()).empty());
  CHECK(stream.add(tokenizer->encode("a", false).front()) == "a");
  CHECK(stream.add(*tokenizer->eos_id()).empty());
  CHECK(stream.finish().empty());
}

} // namespace
} // namespace temper
