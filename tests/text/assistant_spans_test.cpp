#include "temper/text/assistant_spans.h"

#include <doctest/doctest.h>

#include <map>

#include "temper/base/error.h"
#include "text/fixtures.h"

namespace temper {
namespace {

using test::fixture;

using Turns = std::vector<std::string>;

// By template and chat: what the assistant wrote, as a reader of the template would mark it.
const std::map<std::string, std::map<std::string, Turns>> kTurns = {
    {"chatml",
     {{"one", {"It is 4.<|im_end|>"}},
      {"two", {"It is 4.<|im_end|>", "\nʻEhā. 😀 <|im_end|>"}},
      {"system", {"It is 4.<|im_end|>", "\nʻEhā. 😀 <|im_end|>"}},
      {"system_prompt", {"It is 4.<|im_end|>"}},
      {"prompt", {}}}},
    {"llama2",
     {{"one", {" It is 4. </s>"}},
      {"system", {" It is 4. </s>", " ʻEhā. 😀 </s>"}},
      {"two", {" It is 4. </s>", " ʻEhā. 😀 </s>"}}}},
    {"llama3",
     {{"two", {"It is 4.<|eot_id|>", "ʻEhā. 😀<|eot_id|>"}},
      {"tools",
       {"{\"name\": \"weather\", \"parameters\": {\"city\": \"Hilo\", \"n\": 1.5}}<|eot_id|>",
        "It rains.<|eot_id|>", "ʻEhā. 😀<|eot_id|>"}}}},
    {"gemma", {{"two", {"It is 4.<end_of_turn>", "ʻEhā. 😀<end_of_turn>"}}}},
    {"phi3",
     {{"one", {"It is 4.<|end|>\n<|endoftext|>"}},
      {"two", {"It is 4.<|end|>", "\nʻEhā. 😀 <|end|>\n<|endoftext|>"}},
      {"system_prompt", {"It is 4.<|end|>"}}}},
    {"mistral",
     {{"two", {" It is 4.</s>", " ʻEhā. 😀</s>"}},
      {"system", {" It is 4.</s>", " ʻEhā. 😀</s>"}},
      {"tools",
       {"[TOOL_CALLS] [{\"name\": \"weather\", \"arguments\": {\"city\": \"Hilo\", \"n\": 1.5}, \"id\": "
        "\"abcdef123\"}]</s>",
        " It rains.</s>", " ʻEhā. 😀</s>"}}}},
    {"qwen3",
     {{"one", {"<think>\n\n</think>\n\nIt is 4.<|im_end|>"}},
      {"two", {"It is 4.<|im_end|>", "<think>\n\n</think>\n\nʻEhā. 😀 <|im_end|>"}},
      {"thinking", {"It is 4.<|im_end|>", "<think>\nIn Hawaiian: ʻehā.\n</think>\n\nʻEhā.<|im_end|>"}},
      {"not_thinking", {"It is 4.<|im_end|>", "ʻEhā. 😀 <|im_end|>"}},
      {"tools",
       {"<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Hilo\", \"n\": 1.5}}\n</tool_call>"
        "<|im_end|>",
        "It rains.<|im_end|>", "<think>\n\n</think>\n\nʻEhā. 😀 <|im_end|>"}}}},
    {"smollm", {{"two", {"It is 4.<|im_end|>", "\nʻEhā. 😀 <|im_end|>"}}}},
    {"reasoner", {{"two", {"It is 4.</s>", "ʻEhā. 😀 </s>"}}, {"thinking", {"It is 4.</s>", "ʻEhā.</s>"}}}},
    {"vicuna", {{"two", {" It is 4.</s>", " ʻEhā. 😀</s>"}}, {"system", {" It is 4.</s>", " ʻEhā. 😀</s>"}}}},
    {"alpaca", {{"two", {"It is 4.\n\n", "ʻEhā. 😀\n\n"}}}},
    {"joined", {{"one", {"It is 4."}}, {"two", {"It is 4.<|eot|>", "ʻEhā. 😀"}}}},
    {"parts", {{"two", {"It is 4.<|im_end|>", "\nʻEhā. 😀 <|im_end|>"}}, {"parts", {"It is 4.<|im_end|>"}}}},
};

Turns turns_of(const RenderedChat& chat) {
  Turns turns;
  for (const auto& span : chat.assistant_spans) {
    turns.push_back(chat.text.substr(span.begin, span.end - span.begin));
  }
  return turns;
}

Json chat_of(std::initializer_list<std::pair<const char*, const char*>> turns) {
  Json messages = Json::array();
  for (const auto& [role, content] : turns) {
    messages.push_back({{"role", role}, {"content", content}});
  }
  return messages;
}

Turns turns_of(const std::string& source, const Json& messages) {
  return turns_of(ChatTemplate(source, Json::object()).render_with_spans(messages));
}

TEST_CASE("rule 4: every assistant turn's span, for each family's shape of template") {
  std::size_t checked = 0;
  for (const Json& entry : read_json(fixture("templates.json"))) {
    const auto name = entry["name"].get<std::string>();
    const ChatTemplate chat_template(entry["source"].get<std::string>(), entry["specials"]);
    for (const Json& chat : entry["cases"]) {
      const auto chat_name = chat["chat"].get<std::string>();
      const auto spans = chat_template.render_with_spans(chat["messages"], test::options_of(chat));
      CAPTURE(name);
      CAPTURE(chat_name);
      CAPTURE(spans.text);
      std::size_t assistants = 0;
      for (const Json& message : chat["messages"]) {
        assistants += message["role"] == "assistant" ? 1 : 0;
      }
      CHECK(spans.assistant_spans.size() == assistants);
      REQUIRE(spans.span_messages.size() == assistants);
      for (const auto message : spans.span_messages) {
        CHECK(chat["messages"][message]["role"] == "assistant");
      }
      const auto expected = kTurns.find(name);
      if (expected != kTurns.end() && expected->second.contains(chat_name)) {
        CHECK(turns_of(spans) == expected->second.at(chat_name));
        ++checked;
      }
    }
  }
  std::size_t wanted = 0;
  for (const auto& [name, chats] : kTurns) {
    wanted += chats.size();
  }
  CHECK(checked == wanted);
}

const std::string kChatMl =
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}";

TEST_CASE("rule 4: spans do not depend on what the words are") {
  // Contents that look like markup, repeat each other, or are empty.
  const auto chat = chat_of({{"user", "<|end|>"},
                             {"assistant", "<|end|>\n<|assistant|>"},
                             {"user", ""},
                             {"assistant", ""},
                             {"user", "a"},
                             {"assistant", "a"}});
  CHECK(turns_of(kChatMl, chat) == Turns{"<|end|>\n<|assistant|><|end|>", "<|end|>", "a<|end|>"});
}

TEST_CASE("rule 4: an empty answer, and one that looks like the end of a turn") {
  const std::string joined =
      "{% for m in messages %}{{ '' if loop.first else '<|eot|>' }}<|{{ m.role }}|>{{ m.content | trim }}{% "
      "endfor %}"
      "{% if add_generation_prompt %}<|eot|><|assistant|>{% endif %}";
  CHECK(turns_of(joined, chat_of({{"user", "a"}, {"assistant", ""}, {"user", "b"}, {"assistant", "c"}})) ==
        Turns{"<|eot|>", "c"});
  CHECK(turns_of(joined, chat_of({{"user", "a"}, {"assistant", " d\n"}, {"user", "b"}})) == Turns{"d<|eot|>"});
  const std::string spaced =
      "{% for m in messages %}# {{ m.role }}\n{{ m.content | trim }}\n\n{% endfor %}"
      "{% if add_generation_prompt %}# assistant\n{% endif %}";
  CHECK(turns_of(spaced, chat_of({{"user", "a"}, {"assistant", "\n"}})) == Turns{"\n\n"});
  CHECK(turns_of(kChatMl, chat_of({{"user", "a"}, {"assistant", ">"}})) == Turns{"><|end|>"});
}

TEST_CASE("rule 4: the assistant speaks first, twice in a row, or alone") {
  CHECK(turns_of(kChatMl, chat_of({{"assistant", "hi"}, {"user", "a"}, {"assistant", "b"}})) ==
        Turns{"hi<|end|>", "b<|end|>"});
  CHECK(turns_of(kChatMl, chat_of({{"user", "a"}, {"assistant", "b"}, {"assistant", "c"}})) ==
        Turns{"b<|end|>", "c<|end|>"});
  CHECK(turns_of(kChatMl, chat_of({{"assistant", "alone"}})) == Turns{"alone<|end|>"});
  // The template looks at messages[0], so that nothing can be rendered before the first message.
  const auto strict = "{{ messages[0].role.upper() }}" + kChatMl;
  CHECK(turns_of(strict, chat_of({{"assistant", "hi"}, {"user", "a"}, {"assistant", "b"}})) ==
        Turns{"hi<|end|>", "b<|end|>"});
}

TEST_CASE("rule 4: without a generation prompt a turn begins with what the model must write itself") {
  const std::string plain = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}";
  CHECK(turns_of(plain, chat_of({{"user", "a"}, {"assistant", "b"}})) == Turns{"<|assistant|>b<|end|>"});
}

TEST_CASE("rule 4: thoughts that the generation prompt cuts off are still supervised") {
  const std::string source =
      "{% for m in messages %}<|{{ m.role }}|>"
      "{% if m.role == 'assistant' and loop.last %}<think>{{ m.reasoning_content }}</think>{% endif %}"
      "{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";
  Json chat = chat_of({{"user", "a"}, {"assistant", "b"}, {"user", "c"}, {"assistant", "d"}});
  chat[1]["reasoning_content"] = "one";
  chat[3]["reasoning_content"] = "two";
  CHECK(turns_of(source, chat) == Turns{"b<|end|>", "<think>two</think>d<|end|>"});
}

TEST_CASE("a template whose turns can't be told apart is refused with what to do") {
  const ChatTemplate hides("{{ messages | length }} messages", Json::object());
  const auto chat = chat_of({{"user", "a"}, {"assistant", "b"}});
  const auto error = test::message_of<DataError>([&] { hides.render_with_spans(chat); });
  CHECK(error.find("assistant turn 1") != std::string::npos);
  CHECK(error.find("{% generation %}") != std::string::npos);
  CHECK(hides.render(chat) == "2 messages");
}

} // namespace
} // namespace temper
