#include "temper/infer/prompt_file.h"

#include <doctest/doctest.h>

#include "infer/tiny.h"
#include "models/families.h"
#include "temper/base/error.h"
#include "temper/base/files.h"

using namespace temper;
using namespace temper::test;

namespace {

constexpr const char* kTemplate =
    "{% for m in messages %} {{ {'system': 'ac', 'user': 'ad', 'assistant': 'ae'}[m.role] }} {{ m.content }}"
    "{% endfor %}{% if add_generation_prompt %} ae{% endif %}";

std::vector<PromptRow> read(const std::string& content, const std::string& name = "prompts.jsonl",
                            const PromptOptions& options = {}, int context = 0) {
  static const auto kTokenizer = tiny_tokenizer(kTemplate);
  const TemporaryFolder folder;
  write_file_atomic(folder.path() / name, std::string_view(content));
  return read_prompt_file(folder.path() / name, *kTokenizer, options, context);
}

std::string refusal(const std::string& content, int context = 0) {
  try {
    read(content, "prompts.jsonl", {}, context);
  } catch (const DataError& error) {
    const std::string what = error.what();
    return what.substr(what.rfind("prompts.jsonl"));
  }
  return "";
}

} // namespace

TEST_CASE("prompts come as text or messages, with what is a row's own") {
  const auto rows = read(
      R"({"prompt": "ba bb", "id": "first", "max_tokens": 7}
{"messages": [{"role": "user", "content": "ba"}, {"role": "assistant", "content": "bb"}, {"role": "user", "content": "bc"}], "id": 2}

{"prompt": "ba", "system": "bd", "answer": "passed over"}
{"conversations": 1, "messages": [{"from": "human", "value": "ba"}], "system": "bd"}
)");
  REQUIRE(rows.size() == 4);
  CHECK(rows[0].tokens == Tokens{6, 29, 30, 7});
  CHECK(rows[0].text == "ba bb");
  CHECK(rows[0].id == "first");
  CHECK(rows[0].max_tokens == 7);
  CHECK(rows[1].tokens == Tokens{6, 29, 7, 30, 6, 31, 7});
  CHECK(rows[1].text == "bc");
  CHECK(rows[1].id == 2);
  CHECK(rows[1].max_tokens == 0);
  CHECK(rows[2].tokens == Tokens{5, 32, 6, 29, 7});
  CHECK(rows[2].line == 4);
  CHECK(rows[3].tokens == rows[2].tokens);
}

TEST_CASE("plain text is a prompt a line; the options hold for every row") {
  const auto rows = read("ba\nbb bc\r\n\n", "prompts.txt", {.system = "bd"});
  REQUIRE(rows.size() == 2);
  CHECK(rows[0].tokens == Tokens{5, 32, 6, 29, 7});
  CHECK(rows[1].text == "bb bc");
  CHECK(read("ba bb", "prompts.txt", {.raw = true})[0].tokens == Tokens{1, 29, 30});
}

TEST_CASE("what can't be asked is refused with its line") {
  CHECK(refusal("{\"prompt\": \"ba\"}\n{\"prompt\": 5}\n") ==
        "prompts.jsonl:2: field 'prompt' must be a string, not number");
  CHECK(refusal("{\"promt\": \"ba\"}") ==
        "prompts.jsonl:1: no field 'prompt' or 'messages' (the row has 'promt')");
  CHECK(refusal("{\"prompt\": \"ba\", \"messages\": []}") ==
        "prompts.jsonl:1: it has both 'prompt' and 'messages'; give one");
  CHECK(refusal("{\"messages\": \"ba\"}") == "prompts.jsonl:1: field 'messages' must be a list of messages");
  CHECK(refusal("{\"messages\": []}") == "prompts.jsonl:1: field 'messages' must be a list of messages");
  CHECK(refusal("{\"messages\": [5]}").find("prompts.jsonl:1: message 1 of 'messages'") == 0);
  CHECK(refusal("{\"prompt\": \"\"}") == "prompts.jsonl:1: prompt: it is empty; say something");
  CHECK(refusal("{\"prompt\": \"ba\", \"max_tokens\": 0}") ==
        "prompts.jsonl:1: field 'max_tokens' must be a whole number of at least 1, not 0");
  CHECK(refusal("{\"prompt\": \"ba\", \"max_tokens\": 99999999999}").find("max_tokens") != std::string::npos);
  CHECK(refusal("{\"prompt\": \"ba\", \"system\": []}") ==
        "prompts.jsonl:1: field 'system' must be a string, not array");
  CHECK(refusal("{\"prompt\": \"ba\", \"id\": {}}") ==
        "prompts.jsonl:1: field 'id' must be a string or a number, not object");
  CHECK(refusal("[1]\n").find("prompts.jsonl:1: ") == 0);
  CHECK(refusal("{\"prompt\": \"ba ba ba\"}", 4) ==
        "prompts.jsonl:1: the prompt has 5 tokens, more than the model's context of 4; shorten it");
  CHECK(refusal("{\"prompt\": \"" + std::string(9000, 'x') + "\"}", 4) ==
        "prompts.jsonl:1: the prompt has 9000 bytes, far beyond the model's context of 4 tokens; shorten it");
  CHECK_THROWS_AS(read(""), DataError);
  CHECK_THROWS_AS(read("\n \n"), DataError);
  CHECK_THROWS_AS(read("x", "prompts.doc"), DataError);
}

TEST_CASE("the context is what the model was made for") {
  const auto length = [](const Model& model) { return context_length(model.spec, model.config); };
  CHECK(length(fixture("llama2")) == 64);
  CHECK(length(fixture("dynamic")) == 0);        // stretches with the text
  CHECK(length(family_model("qwen3_5")) == 128); // a text_config's own
}
