#include "temper/data/row_encoder.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <string>

#include "data/tiny_model.h"
#include "temper/base/error.h"

using namespace temper;
using namespace temper::test;

namespace {

Record chat(const char* messages) {
  Record record;
  record.messages = Json::parse(messages);
  return record;
}

Record completion(const std::string& prompt, const std::string& answer) {
  Record record;
  record.prompt = prompt;
  record.plain_prompt = prompt;
  record.completion = answer;
  return record;
}

Record text(const std::string& content) {
  Record record;
  record.text = content;
  return record;
}

EncodeOptions options(int max_seq_length = 1000) {
  EncodeOptions made;
  made.max_seq_length = max_seq_length;
  return made;
}

// The supervised part as text; specials as themselves.
std::string learned(const EncodedRow& row, const Tokenizer& tokenizer) {
  std::vector<std::int32_t> ids;
  for (std::size_t i = 0; i < row.example.tokens.size(); ++i) {
    if (row.example.supervised[i] != 0) {
      ids.push_back(row.example.tokens[i]);
    }
  }
  return tokenizer.decode(ids, false);
}

constexpr const char* kTwoTurns = R"([{"role": "user", "content": "hi"},
    {"role": "assistant", "content": "yo"}, {"role": "user", "content": "so"},
    {"role": "assistant", "content": "no"}])";

} // namespace

TEST_CASE("rule 4: every assistant turn with its end is supervised, or the last alone") {
  const auto tokenizer = tiny_tokenizer();
  const auto every = RowEncoder(tokenizer, options()).encode(chat(kTwoTurns));
  CHECK(every.text == "<s><|user|>hi<|assistant|>yo</s><|user|>so<|assistant|>no</s>");
  CHECK(learned(every, *tokenizer) == "yo</s>no</s>");
  CHECK(every.num_supervised == 6);
  auto last = options();
  last.last_turn_only = true;
  CHECK(learned(RowEncoder(tokenizer, last).encode(chat(kTwoTurns)), *tokenizer) == "no</s>");
  auto all = options();
  all.mask_prompt = false;
  CHECK(RowEncoder(tokenizer, all).encode(chat(kTwoTurns)).num_supervised ==
        static_cast<std::int64_t>(every.example.tokens.size()) - 1);
}

TEST_CASE("rule 4: turns of the prompt's list, and turns of weight 0, are context") {
  const auto tokenizer = tiny_tokenizer();
  auto record = chat(kTwoTurns);
  record.first_target = 3;
  CHECK(learned(RowEncoder(tokenizer, options()).encode(record), *tokenizer) == "no</s>");
  auto weighted = chat(kTwoTurns);
  weighted.messages[3]["weight"] = 0;
  CHECK(learned(RowEncoder(tokenizer, options()).encode(weighted), *tokenizer) == "yo</s>");
}

TEST_CASE("rule 2: EOS is learned even though it is the padding token too") {
  for (const auto& tokenizer : {tiny_tokenizer(), tiny_tokenizer("")}) {
    REQUIRE(tokenizer->pad_id() == tokenizer->eos_id());
    const auto row = RowEncoder(tokenizer, options()).encode(completion("ab", "cd"));
    CHECK(row.example.tokens.back() == kEos);
    CHECK(row.example.supervised.back() == 1);
    CHECK(learned(row, *tokenizer) == "cd</s>");
    CHECK(row.learns_to_stop);
  }
  const auto row = RowEncoder(tiny_tokenizer(), options()).encode(text("ab"));
  CHECK(row.example.tokens.back() == kEos);
  CHECK(row.example.supervised.back() == 1);
  const auto written = RowEncoder(tiny_tokenizer(), options()).encode(text("ab</s>"));
  CHECK(std::ranges::count(written.example.tokens, kEos) == 1);
}

TEST_CASE("rule 3: BOS comes once, from the template or the tokenizer") {
  const auto count_bos = [](const EncodedRow& row) { return std::ranges::count(row.example.tokens, kBos); };
  const RowEncoder with_template(tiny_tokenizer(), options());
  CHECK(count_bos(with_template.encode(chat(kTwoTurns))) == 1);
  CHECK(count_bos(with_template.encode(text("ab"))) == 1);
  CHECK(count_bos(with_template.encode(text("<s>ab"))) == 1);
  const RowEncoder plain(tiny_tokenizer(""), options());
  CHECK(count_bos(plain.encode(completion("a", "b"))) == 1);
  CHECK(count_bos(plain.encode(completion("<s>a", "b"))) == 1);
  // A template without BOS means none, as in transformers.
  const RowEncoder without(tiny_tokenizer("{% for m in messages %}{{ m.content }}{% endfor %}"), options());
  CHECK(count_bos(without.encode(chat(kTwoTurns))) == 0);
}

TEST_CASE("rule 5: a cut that takes every label says so; one that leaves some is a cut") {
  const auto tokenizer = tiny_tokenizer();
  const auto record = chat(R"([{"role": "user", "content": "0123456789"},
      {"role": "assistant", "content": "yes"}])");
  const auto whole = RowEncoder(tokenizer, options()).encode(record); // <s> <|user|> 10 <|assistant|> 3 </s>
  CHECK(whole.full_length == 17);
  CHECK(!whole.truncated);
  const auto cut = RowEncoder(tokenizer, options(15)).encode(record);
  CHECK(cut.truncated);
  CHECK(!cut.lost_labels);
  CHECK(cut.example.tokens.size() == 15);
  CHECK(cut.num_supervised == 2);
  CHECK(cut.full_length == 17);
  const auto lost = RowEncoder(tokenizer, options(13)).encode(record);
  CHECK(lost.lost_labels);
  CHECK(lost.num_supervised == 0);
}

TEST_CASE("messages without an assistant have nothing to learn") {
  const auto row =
      RowEncoder(tiny_tokenizer(), options()).encode(chat(R"([{"role": "user", "content": "hi"}])"));
  CHECK(row.num_supervised == 0);
  CHECK(!row.lost_labels);
}

TEST_CASE("without a chat template: text for completions, a clear error for chats") {
  const auto tokenizer = tiny_tokenizer("");
  const auto row = RowEncoder(tokenizer, options()).encode(completion("ab", "cd"));
  CHECK(row.text == "abcd");
  CHECK(row.example.tokens ==
        std::vector<std::int32_t>{kBos, id_of('a'), id_of('b'), id_of('c'), id_of('d'), kEos});
  CHECK_THROWS_AS(RowEncoder(tokenizer, options()).encode(chat(kTwoTurns)), DataError);
}

TEST_CASE("a template that raises is the row's error, in the template's words") {
  const RowEncoder encoder(tiny_tokenizer(), options());
  try {
    encoder.encode(chat(R"([{"role": "alien", "content": "x"}])"));
    FAIL("no error");
  } catch (const RowError& error) {
    CHECK(std::string(error.what()).find("no role alien") != std::string::npos);
  }
}

TEST_CASE("a template that never ends a turn is noticed") {
  const auto tokenizer = tiny_tokenizer(
      "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
      "{% if add_generation_prompt %}<|assistant|>{% endif %}");
  const auto row = RowEncoder(tokenizer, options()).encode(completion("a", "b"));
  CHECK(row.num_supervised > 0);
  CHECK(!row.learns_to_stop);
}

TEST_CASE("compat mlx-lm: the mask begins after the tokens of all messages but the last; nothing is cut") {
  const auto tokenizer = tiny_tokenizer();
  auto compat = options(10);
  compat.compat_mlx_lm = true;
  const auto row = RowEncoder(tokenizer, compat).encode(chat(kTwoTurns));
  CHECK(row.example.tokens.size() > 10);
  CHECK(learned(row, *tokenizer) == "no</s>");
  compat.mask_prompt = false;
  const auto all = RowEncoder(tokenizer, compat).encode(chat(kTwoTurns));
  CHECK(std::ranges::count(all.example.supervised, 1) ==
        static_cast<std::ptrdiff_t>(all.example.tokens.size()));
  // A last message that is not the assistant's leaves no generation prompt before it.
  const auto user_last = chat(R"([{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}])");
  compat.mask_prompt = true;
  CHECK(learned(RowEncoder(tokenizer, compat).encode(user_last), *tokenizer) == "<|user|>hi");
}
