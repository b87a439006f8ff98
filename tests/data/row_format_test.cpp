#include "temper/data/row_format.h"

#include <doctest/doctest.h>

#include <string>

#include "temper/base/error.h"

using namespace temper;

namespace {

Record read(const char* row, const FormatOptions& options = {}) {
  const Json json = Json::parse(row);
  const auto format = detect_format(json, options);
  REQUIRE(format.has_value());
  return read_record(json, *format, options);
}

std::string error_of(const char* row, RowFormat format, const FormatOptions& options = {}) {
  try {
    read_record(Json::parse(row), format, options);
  } catch (const RowError& error) {
    return error.what();
  }
  return "";
}

} // namespace

TEST_CASE("formats are told by their fields") {
  const FormatOptions options;
  const auto detect = [&](const char* row) { return detect_format(Json::parse(row), options); };
  CHECK(detect(R"({"messages": []})") == RowFormat::chat);
  CHECK(detect(R"({"conversations": []})") == RowFormat::sharegpt);
  CHECK(detect(R"({"instruction": "", "output": ""})") == RowFormat::alpaca);
  CHECK(detect(R"({"prompt": "", "completion": "", "text": ""})") == RowFormat::completion);
  CHECK(detect(R"({"text": ""})") == RowFormat::text);
  CHECK(!detect(R"({"question": "", "answer": ""})"));
  FormatOptions custom;
  custom.prompt_feature = "question";
  custom.completion_feature = "answer";
  CHECK(detect_format(Json::parse(R"({"question": "", "answer": ""})"), custom) == RowFormat::completion);
  CHECK_THROWS_AS(row_format_from("chats"), ConfigError);
  CHECK(!row_format_from("auto"));
  CHECK(row_format_from("template") == RowFormat::template_);
}

TEST_CASE("OpenAI messages: parts are joined, tool arguments become objects, tools may be text") {
  const auto record = read(R"({"messages": [
      {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
      {"role": "assistant", "content": null, "tool_calls": [
          {"type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}}]},
      {"role": "tool", "content": "3", "tool_call_id": "t"}],
      "tools": "[{\"type\": \"function\"}]"})");
  REQUIRE(record.messages.size() == 3);
  CHECK(record.messages[0]["content"] == "ab");
  CHECK(record.messages[1]["content"] == "");
  CHECK(record.messages[1]["tool_calls"][0]["function"]["arguments"]["x"] == 1);
  CHECK(record.messages[2]["tool_call_id"] == "t");
  CHECK(record.tools[0]["type"] == "function");
}

TEST_CASE("ShareGPT becomes messages; the row's system comes first") {
  const auto record = read(R"({"system": "be kind", "conversations": [
      {"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"},
      {"from": "observation", "value": "7"}]})");
  REQUIRE(record.messages.size() == 4);
  CHECK(record.messages[0] == Json{{"role", "system"}, {"content", "be kind"}});
  CHECK(record.messages[1] == Json{{"role", "user"}, {"content", "hi"}});
  CHECK(record.messages[2]["role"] == "assistant");
  CHECK(record.messages[3]["role"] == "tool");
}

TEST_CASE("Alpaca: the input follows the instruction; headers without a chat template") {
  const auto record = read(R"({"instruction": "add", "input": "1 2", "output": "3"})");
  CHECK(*record.prompt == "add\n\n1 2");
  CHECK(*record.completion == "3");
  CHECK(*record.plain_prompt == "### Instruction:\nadd\n\n### Input:\n1 2\n\n### Response:\n");
  CHECK(*read(R"({"instruction": "add", "input": null, "output": "3"})").prompt == "add");
}

TEST_CASE("prompt and completion: strings, or lists of messages of which the completion is learned") {
  CHECK(*read(R"({"prompt": "a", "completion": "b"})").completion == "b");
  FormatOptions options;
  options.system_prompt = "be kind";
  const auto record = read(R"({"prompt": [{"role": "user", "content": "a"},
      {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
      "completion": [{"role": "assistant", "content": "d"}]})",
                           options);
  REQUIRE(record.messages.size() == 5);
  CHECK(record.messages[0]["role"] == "system");
  CHECK(record.first_target == 4);
}

TEST_CASE("templates fill in fields, and braces are written twice") {
  FormatOptions options;
  options.prompt_template = "Q: {question} {{{n}}}";
  options.completion_template = "{answer}";
  const auto record = read(R"({"question": "why", "answer": "so", "n": 4})", options);
  CHECK(*record.prompt == "Q: why {4}");
  CHECK(*record.completion == "so");
  options.completion_template.clear();
  CHECK(*read(R"({"question": "why", "n": 1})", options).text == "Q: why {1}");
  CHECK(error_of(R"({"n": 1})", RowFormat::template_, options) == "no field 'question' (the row has 'n')");
  options.prompt_template = "{question";
  CHECK_THROWS_AS(read_record(Json::parse("{}"), RowFormat::template_, options), ConfigError);
}

TEST_CASE("the system prompt goes before chats that have none") {
  FormatOptions options;
  options.system_prompt = "be kind";
  CHECK(read(R"({"messages": [{"role": "user", "content": "a"}]})", options).messages.size() == 2);
  const auto own = read(R"({"messages": [{"role": "system", "content": "own"}]})", options);
  CHECK(own.messages.size() == 1);
  CHECK(read(R"({"prompt": "a", "completion": "b"})", options).prompt_messages().size() == 3);
}

TEST_CASE("rows of the wrong shape say what is wrong") {
  using enum RowFormat;
  CHECK(error_of(R"({"messages": []})", chat) == "'messages' is empty");
  CHECK(error_of(R"({"messages": 3})", chat) == "field 'messages' must be a list, not number");
  CHECK(error_of(R"({"messages": "hello"})", chat) == "field 'messages' must be a list, not string");
  CHECK(error_of(R"({"messages": ["a"]})", chat) == "message 1 of 'messages' must be an object, not string");
  CHECK(error_of(R"({"messages": [{"content": "a"}]})", chat) ==
        "message 1 of 'messages' has no 'role' string");
  CHECK(error_of(R"({"messages": [{"role": "user"}]})", chat) == "message 1 of 'messages' has no 'content'");
  CHECK(error_of(R"({"messages": [{"role": "user", "content": {"a": 1}}]})", chat)
            .find("'content' must be a string or a list of text parts, not object") != std::string::npos);
  CHECK(error_of(R"({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})", chat)
            .find("of type 'image_url'") != std::string::npos);
  CHECK(error_of(R"({"prompt": "a", "completion": 3})", completion) ==
        "field 'completion' must be a string, not number");
  CHECK(error_of(R"({"prompt": "a"})", completion) == "no field 'completion' (the row has 'prompt')");
  CHECK(error_of(R"({"text": ["a"]})", text) == "field 'text' must be a string, not array");
  CHECK(error_of("{}", text) == "no field 'text' (the row has no fields)");
}
