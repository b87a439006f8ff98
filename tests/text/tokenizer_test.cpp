#include "temper/text/tokenizer.h"

#include <doctest/doctest.h>

#include <thread>

#include "base/messages.h"
#include "temper/base/error.h"
#include "text/fixtures.h"

namespace temper {
namespace {

using test::contains;
using test::fixture;
using test::message_of;
using test::TempFolder;

using Ids = std::vector<std::int32_t>;

TEST_CASE("ids, offsets and text are those of the tokenizers package") {
  const Json encodings = read_json(fixture("encodings.json"));
  for (const auto& [name, cases] : encodings["hugging_face"].items()) {
    const auto tokenizer = Tokenizer::load(fixture(name));
    CHECK(cases.size() > 20);
    for (const Json& expected : cases) {
      const auto text = expected["text"].get<std::string>();
      CAPTURE(name);
      CAPTURE(text);
      const auto encoding = tokenizer->encode_with_offsets(text, expected["add_special_tokens"].get<bool>());
      CHECK(encoding.ids == expected["ids"].get<Ids>());
      CHECK(encoding.offsets == test::to_spans(expected["offsets"]));
      CHECK(tokenizer->decode(encoding.ids) == expected["decoded"].get<std::string>());
      CHECK(tokenizer->decode(encoding.ids, false) == expected["decoded_all"].get<std::string>());
    }
  }
}

TEST_CASE("a SentencePiece model gives SentencePiece's ids and text") {
  const Json encodings = read_json(fixture("encodings.json"));
  for (const auto& [name, cases] : encodings["sentencepiece"].items()) {
    const auto tokenizer = Tokenizer::load(fixture(name));
    CHECK(cases.size() > 5);
    for (const Json& expected : cases) {
      const auto text = expected["text"].get<std::string>();
      CAPTURE(name);
      CAPTURE(text);
      const auto ids = tokenizer->encode(text, false);
      CHECK(ids == expected["ids"].get<Ids>());
      if (name != "spm_unigram") { // which has no bytes to fall back to: unknown letters are lost
        CHECK(tokenizer->decode(ids) == expected["decoded"].get<std::string>());
      }
    }
  }
}

TEST_CASE("offsets are bytes that spell the tokens") {
  const auto tokenizer = Tokenizer::load(fixture("spm_bpe"));
  const std::string text = "Pehea ʻoe i kēia lā? 😀";
  const auto encoding = tokenizer->encode_with_offsets(text, true);
  REQUIRE(encoding.ids.size() == encoding.offsets.size());
  CHECK(encoding.ids.front() == tokenizer->bos_id());
  CHECK(encoding.offsets.front() == TextSpan{0, 0});
  CHECK(encoding.offsets.back().end == text.size());
  for (std::size_t i = 2; i < encoding.offsets.size(); ++i) {
    CHECK(encoding.offsets[i].begin <= encoding.offsets[i - 1].end);
  }
}

TEST_CASE("special and added tokens come from every file that may name them") {
  const auto llama = Tokenizer::load(fixture("bytelevel"));
  CHECK(llama->bos_id() == llama->token_to_id("<|begin_of_text|>"));
  CHECK(llama->eos_id() == llama->token_to_id("<|end_of_text|>"));
  CHECK(llama->pad_id() == std::nullopt);
  const auto tag = llama->token_to_id("<|python_tag|>"); // only in tokenizer_config.json
  REQUIRE(tag.has_value());
  CHECK(*tag + 1 == llama->vocab_size());
  CHECK(llama->encode("a<|python_tag|>", false).back() == *tag);
  CHECK(llama->id_to_token(*tag) == "<|python_tag|>");
  CHECK(llama->id_to_token(*tag + 1).empty());
  CHECK(llama->id_to_token(-1).empty());

  const auto bert = Tokenizer::load(fixture("wordpiece")); // only special_tokens_map.json
  CHECK(bert->pad_id() == bert->token_to_id("[PAD]"));
  CHECK(bert->encode("the sun and the sea and the fox and the dog", true).size() > 8); // not truncated

  const auto spm = Tokenizer::load(fixture("spm_unigram_bytes")); // no name anywhere: the usual ones
  CHECK(spm->bos_id() == spm->token_to_id("<s>"));
  CHECK(spm->eos_id() == spm->token_to_id("</s>"));
  const auto turn = Tokenizer::load(fixture("spm_bpe"))->encode("a<|turn|>b", false);
  CHECK(std::find(turn.begin(), turn.end(), Tokenizer::load(fixture("spm_bpe"))->token_to_id("<|turn|>")) !=
        turn.end());
}

TEST_CASE("generation stops at eos, generation_config.json's ids and the template's turn end") {
  const auto llama = Tokenizer::load(fixture("bytelevel"));
  CHECK(llama->stop_ids() == Ids{*llama->token_to_id("<|end_of_text|>"), *llama->token_to_id("<|eot_id|>")});

  const TempFolder folder("bytelevel");
  folder.remove("generation_config.json"); // the template still tells
  CHECK(Tokenizer::load(folder.path())->stop_ids() == llama->stop_ids());
  folder.write("generation_config.json", R"({"eos_token_id": 3})");
  CHECK(Tokenizer::load(folder.path())->stop_ids() == Ids{1, 3, 4});
  folder.write("generation_config.json", "{}");
  folder.write("config.json", R"({"eos_token_id": [2]})");
  CHECK(Tokenizer::load(folder.path())->stop_ids() == Ids{1, 2, 4});
}

TEST_CASE("add_bos_token and add_eos_token decide for plain text") {
  const TempFolder folder("spm_bpe");
  const auto ends = [&](const std::string& config) {
    folder.write("tokenizer_config.json", config);
    const auto tokenizer = Tokenizer::load(folder.path());
    const auto ids = tokenizer->encode("sea shells", true);
    return std::pair(ids.front() == tokenizer->bos_id(), ids.back() == tokenizer->eos_id());
  };
  CHECK(ends("{}") == std::pair(true, false));
  CHECK(ends(R"({"add_bos_token": false})") == std::pair(false, false));
  CHECK(ends(R"({"add_eos_token": true})") == std::pair(true, true));
  CHECK(ends(R"({"add_bos_token": false, "add_eos_token": true})") == std::pair(false, true));

  const TempFolder json("bytelevel"); // tokenizer.json adds BOS by itself
  const auto before = Tokenizer::load(json.path())->encode("sea", true);
  json.write("tokenizer_config.json",
             R"({"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "add_bos_token": false})");
  CHECK(Tokenizer::load(json.path())->encode("sea", true) == Ids(before.begin() + 1, before.end()));
}

TEST_CASE("the space before a SentencePiece text: once, after every special token, or never") {
  const TempFolder folder("spm_bpe");
  const auto tokens = [&](const std::string& config) {
    folder.write("tokenizer_config.json", config);
    const auto tokenizer = Tokenizer::load(folder.path());
    std::string out;
    for (const auto id : tokenizer->encode("sea<|turn|>sea", false)) {
      out += tokenizer->id_to_token(id);
    }
    return out;
  };
  CHECK(tokens("{}") == "▁sea<|turn|>sea");
  CHECK(tokens(R"({"legacy": true})") == "▁sea<|turn|>▁sea");
  CHECK(tokens(R"({"add_prefix_space": false})") == "sea<|turn|>sea");
}

TEST_CASE("chat templates: named ones, a file of their own, a folder of more") {
  const auto named = Tokenizer::load(fixture("spm_bpe"));
  CHECK(named->chat_template_names() == std::vector<std::string>{"default", "tool_use"});
  CHECK(named->chat_template("tool_use") != nullptr);
  CHECK(named->chat_template("rag") == nullptr);
  CHECK(Tokenizer::load(fixture("wordpiece"))->chat_template() == nullptr);

  const TempFolder folder("spm_bpe");
  folder.write("chat_template.jinja", "{{ bos_token }}from a file");
  folder.write("additional_chat_templates/rag.jinja", "rag {{ eos_token }}");
  const auto tokenizer = Tokenizer::load(folder.path());
  const Json messages = Json::array({{{"role", "user"}, {"content", "hi"}}});
  CHECK(tokenizer->chat_template()->render(messages) == "<s>from a file");
  CHECK(tokenizer->chat_template("rag")->render(messages) == "rag </s>");
  CHECK(tokenizer->chat_template("tool_use") != nullptr);
}

TEST_CASE("the fingerprint changes with every file that shapes ids or text, and with no other") {
  const TempFolder folder("bytelevel");
  const auto print = [&] { return Tokenizer::load(folder.path())->fingerprint(); };
  const auto first = print();
  CHECK(first == Tokenizer::load(fixture("bytelevel"))->fingerprint());
  folder.write("model.safetensors", "weights");
  CHECK(print() == first);
  folder.write("chat_template.jinja", "x");
  const auto second = print();
  CHECK(second != first);
  folder.write("special_tokens_map.json", R"({"pad_token": "<|eot_id|>"})");
  CHECK(print() != second);
}

TEST_CASE("what is wrong with a folder is said in one line that names the file") {
  const TempFolder folder;
  const auto load = [&] { Tokenizer::load(folder.path()); };
  CHECK(contains(message_of<ModelError>(load), "no tokenizer.json or tokenizer.model; copy the tokenizer's"));
  folder.write("vocab.json", "{}");
  CHECK(contains(message_of<ModelError>(load), "save it as tokenizer.json"));
  folder.write("tokenizer.json", "{\"version\": ");
  CHECK(contains(message_of<ModelError>(load), "tokenizer.json: not a tokenizer that can be read"));
  folder.write("tokenizer.json", read_file(fixture("bytelevel") / "tokenizer.json"));
  folder.write("tokenizer_config.json", "{\"bos_token\" 1}");
  CHECK(contains(message_of<ModelError>(load), "tokenizer_config.json: not valid JSON at line 1"));
  folder.write("tokenizer_config.json", "[]");
  CHECK(contains(message_of<ModelError>(load), "must be a JSON object"));
  CHECK(contains(message_of<ModelError>([] { Tokenizer::load("/nowhere/model"); }), "no such model folder"));

  folder.write("tokenizer_config.json", R"({"chat_template": "{% if %}"})");
  const auto tokenizer = Tokenizer::load(folder.path()); // text without chats still trains
  CHECK(contains(message_of<ModelError>([&] { tokenizer->chat_template(); }), "does not parse"));
}

TEST_CASE("a truncated tokenizer.model is refused at every length") {
  const auto whole = read_file(fixture("spm_bpe") / "tokenizer.model");
  const TempFolder folder;
  int refused = 0;
  for (std::size_t size = 0; size < whole.size(); size += 97) {
    folder.write("tokenizer.model", whole.substr(0, size));
    try {
      Tokenizer::load(folder.path()); // cut between two fields it is still a model
    } catch (const ModelError& error) {
      ++refused;
      CHECK(contains(error.what(), "tokenizer.model: not a SentencePiece model that can be read: "));
    }
  }
  CHECK(refused > 50);
  folder.write("tokenizer.model", "not a model at all");
  CHECK(contains(message_of<ModelError>([&] { Tokenizer::load(folder.path()); }), "not a SentencePiece model"));
}

TEST_CASE("text that is not UTF-8 is a DataError") {
  const auto tokenizer = Tokenizer::load(fixture("bytelevel"));
  CHECK(contains(message_of<DataError>([&] { tokenizer->encode("ab\xff", false); }), "not UTF-8 from byte 2"));
}

TEST_CASE("many threads share a tokenizer") {
  const auto tokenizer = Tokenizer::load(fixture("bytelevel"));
  std::vector<std::string> texts;
  for (int i = 0; i < 400; ++i) {
    texts.push_back("Shell number " + std::to_string(i) + ": kāua 😀\n");
  }
  const auto batch = tokenizer->encode_batch(texts, true, 4);
  std::vector<Ids> single(texts.size());
  {
    std::vector<std::jthread> threads;
    for (std::size_t t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (std::size_t i = t; i < texts.size(); i += 4) {
          single[i] = tokenizer->encode(texts[i], true);
        }
      });
    }
  }
  for (std::size_t i = 0; i < texts.size(); ++i) {
    CHECK(batch[i].ids == single[i]);
    CHECK(tokenizer->decode(single[i]) == texts[i]);
  }
  texts[7] = "\xff";
  CHECK_THROWS_AS(tokenizer->encode_batch(texts, true), DataError);
}

} // namespace
} // namespace temper
