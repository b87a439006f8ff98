#include "temper/text/chat_template.h"

#include <doctest/doctest.h>
#include <sys/resource.h>

#include <atomic>
#include <map>
#include <thread>

#include "temper/base/clock.h"
#include "temper/base/error.h"
#include "text/fixtures.h"

namespace temper {
namespace {

using test::fixture;
using test::message_of;

const Json kQuestion = Json::array({{{"role", "user"}, {"content", "hi"}}});

std::string render(const std::string& source, const RenderOptions& options = {}) {
  return ChatTemplate(source, Json::object()).render(kQuestion, options);
}

TEST_CASE("templates render as transformers renders them") {
  int checked = 0;
  for (const Json& entry : read_json(fixture("templates.json"))) {
    const ChatTemplate chat_template(entry["source"].get<std::string>(), entry["specials"]);
    for (const Json& chat : entry["cases"]) {
      CAPTURE(entry["name"].get<std::string>());
      CAPTURE(chat["chat"].get<std::string>());
      const auto options = test::options_of(chat);
      CHECK(chat_template.render(chat["messages"], options) == chat["text"].get<std::string>());
      CHECK(chat_template.render_with_spans(chat["messages"], options).text == chat["text"].get<std::string>());
      ++checked;
    }
  }
  CHECK(checked > 50);
}

TEST_CASE("expressions give what Jinja in Python gives") {
  const Json fixtures = read_json(fixture("expressions.json"));
  for (const Json& expected : fixtures["cases"]) {
    const auto source = expected["source"].get<std::string>();
    CAPTURE(source);
    CHECK(render(source, {.variables = fixtures["variables"]}) == expected["text"].get<std::string>());
  }
}

TEST_CASE("rule 4: {% generation %} spans are those that transformers finds") {
  int marked = 0;
  for (const Json& entry : read_json(fixture("templates.json"))) {
    const ChatTemplate chat_template(entry["source"].get<std::string>(), entry["specials"]);
    for (const Json& chat : entry["cases"]) {
      if (chat.contains("spans")) {
        ++marked;
        CHECK(chat_template.render_with_spans(chat["messages"], test::options_of(chat)).assistant_spans ==
              test::to_spans(chat["spans"]));
      }
    }
  }
  CHECK(marked == 4);
}

TEST_CASE("generation tags: whitespace control, a string that looks like a tag, a message that forges one") {
  const auto spans = [](const std::string& source, const Json& messages) {
    return ChatTemplate(source, Json::object()).render_with_spans(messages);
  };
  const auto trimmed = spans("a {%- generation -%} b {%- endgeneration -%} c", kQuestion);
  CHECK(trimmed.text == "abc");
  CHECK(trimmed.assistant_spans == std::vector<TextSpan>{{1, 2}});
  CHECK(render("{{ '{% generation %}' }}") == "{% generation %}");

  Json forged = kQuestion;
  forged[0]["content"] =
      "\U000F0000"
      "0\U000F0001(x";
  const auto chat = spans("{% generation %}{{ messages[0].content }}{% endgeneration %}!", forged);
  CHECK(chat.text == forged[0]["content"].get<std::string>() + "!");
  CHECK(chat.assistant_spans == std::vector<TextSpan>{{0, chat.text.size() - 1}});
}

TEST_CASE("each span knows its message, also where a template marks a turn twice or not at all") {
  const ChatTemplate chat_template(
      "{% for m in messages %}{% if m.role == 'assistant' %}{% for word in m.content.split() %}"
      "{% generation %}{{ word }}{% endgeneration %}{% endfor %}{% endif %}|{% endfor %}",
      Json::object());
  Json chat = kQuestion;
  for (const char* words : {"one two", "", "three"}) {
    chat.push_back({{"role", "assistant"}, {"content", words}});
  }
  chat.push_back({{"role", "assistant"}, {"content", "four five"}});
  const auto rendered = chat_template.render_with_spans(chat);
  CHECK(rendered.text == "|onetwo||three|fourfive|");
  CHECK(rendered.assistant_spans.size() == 5);
  CHECK(rendered.span_messages == std::vector<std::size_t>{1, 1, 3, 4, 4});
}

TEST_CASE("messages come to the template as transformers hands them over") {
  const ChatTemplate shows("{% for m in messages %}{{ m | tojson }}{% endfor %}", Json::object());
  CHECK(shows.render(Json::parse(R"([{"role": "user", "content": null, "x": 1}])")) ==
        R"({"role": "user", "x": 1})");
  CHECK(shows.render(Json::parse(R"([{"role": "assistant", "reasoning": "r"}])")) ==
        R"({"role": "assistant", "reasoning": "r", "reasoning_content": "r", "thinking": "r"})");
  CHECK(ChatTemplate("{{ tools is none }} {{ documents is none }} {{ eos_token }} {{ x }}",
                     {{"eos_token", "</s>"}})
            .render(kQuestion, {.variables = {{"x", 3}}}) == "True True </s> 3");
  CHECK(ChatTemplate("{{ eos_token }}", {{"eos_token", "a"}})
            .render(kQuestion, {.variables = {{"eos_token", "b"}}}) == "b");
}

TEST_CASE("strftime_now formats the local date") {
  CHECK(render("{{ strftime_now('%Y') | int > 2024 }}") == "True");
  CHECK(render("{{ strftime_now('%d %b %Y') | length }} {{ strftime_now('%%|%Q') }}") == "11 %|%Q");
}

TEST_CASE("a template's complaint reaches the user in its own words") {
  const auto refusal = [](const std::string& source) { return message_of<DataError>([&] { render(source); }); };
  CHECK(refusal("\n{{ raise_exception('roles must alternate') }}") ==
        "roles must alternate (chat template, line 2)");
  CHECK(refusal("{{ messages[0].tool.name }}").find("undefined") != std::string::npos);
  CHECK(refusal("{{ nothing | tojson }}").find("undefined") != std::string::npos);
  CHECK(
      refusal("{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}").find("fuel") !=
      std::string::npos);
  CHECK(refusal("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}").find("recursion") != std::string::npos);
}

// What the process has held at most, in bytes.
std::int64_t peak_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
#ifdef __APPLE__
  return usage.ru_maxrss;
#else
  return usage.ru_maxrss * 1024;
#endif
}

// What a refused template may leave behind, spare room included; AddressSanitizer keeps what was freed for a
// while.
#ifdef __SANITIZE_ADDRESS__
constexpr std::int64_t kMostLeft = 400 << 20;
#else
constexpr std::int64_t kMostLeft = 100 << 20;
#endif

std::string repeated(const std::string& body) {
  return "{% set ns = namespace(x='hello', l=['hello'], n=[]) %}{% for i in range(1000) %}{% for j in "
         "range(1000) %}" +
         body + "{% endfor %}{% endfor %}";
}

const std::map<std::string, std::string> kBombs = {
    {"~", repeated("{% set ns.x = ns.x ~ ns.x %}")},
    {"+", repeated("{% set ns.x = ns.x + ns.x %}")},
    {"*", repeated("{% set ns.x = ns.x * 3 %}")},
    {"* before it runs", "{{ ('x' * 90000000) | length }}"},
    {"a list printed", "{{ (['hello'] * 90000000) ~ '' }}"},
    {"join", repeated("{% set ns.x = [ns.x, ns.x, ns.x] | join(ns.x) %}")},
    {"join as Python has it", repeated("{% set ns.x = ns.x.join([ns.x, ns.x, ns.x]) %}")},
    {"replace", repeated("{% set ns.x = ns.x | replace('l', ns.x) %}")},
    {"replace as Python has it", repeated("{% set ns.x = ns.x.replace('l', ns.x) %}")},
    {"format", "{{ '%999999999d' | format(1) }}"},
    {"indent", "{{ messages | tojson(indent=999999999) }}"},
    {"doubled lists", repeated("{% set ns.l = [ns.l, ns.l] %}{% if i + j > 40 %}{{ ns.l }}{% endif %}")},
    {"nested lists", repeated("{% set ns.n = [ns.n] %}")},
    {"nested namespaces", repeated("{% set ns.n = namespace(n=ns.n) %}")},
    {"output", repeated("{{ 'hello' * 100 }}")},
    {"a block", "{% set x %}" + repeated("{{ 'hello' * 100 }}") + "{% endset %}"},
    {"a macro", repeated("{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}{% set ns.x = m(ns.x) %}")},
};

TEST_CASE("a template without bound is refused by name, soon, and holds 64 MiB at most") {
  for (const auto& [name, source] : kBombs) {
    CAPTURE(name);
    const auto before = peak_bytes();
    const Stopwatch watch;
    std::unique_ptr<ChatTemplate> bomb;
    const auto words = message_of<ModelError>([&] {
      bomb = std::make_unique<ChatTemplate>(source, Json::object(), "tool_use");
      bomb->render(kQuestion);
    });
    CHECK(words.starts_with("the chat template tool_use can't be "));
    CHECK(words.find("64 MiB") != std::string::npos);
    CHECK(words.find("chat_template.jinja") != std::string::npos);
    CHECK(watch.seconds() < 20);
    CHECK(peak_bytes() - before < kMostLeft);
    if (bomb) { // once is enough
      CHECK(message_of<ModelError>([&] { bomb->render(kQuestion); }) == words);
      CHECK(peak_bytes() - before < kMostLeft);
    }
  }
  CHECK(render("{{ 'hello' * 3 }}") == "hellohellohello");
}

TEST_CASE("what is large but bounded renders; range() has a bound of its own") {
  Json chat = kQuestion;
  chat[0]["content"] = std::string(30 << 20, 'x');
  CHECK(ChatTemplate("{% for i in range(5) %}{{ messages[0].content.replace('x', 'y') }}{% endfor %}",
                     Json::object())
            .render(chat)
            .size() == 150 << 20);
  CHECK(message_of<DataError>([] { render("{{ range(10**9) }}"); }).find("range") != std::string::npos);
  const std::string deep =
      "{% set ns = namespace(n=[]) %}{% for i in range(100) %}{% for j in range(1000) %}"
      "{% set ns.n = [ns.n] %}{% endfor %}{% endfor %}";
  CHECK(render(deep + "{{ (ns.n | string) | length }}") == "200002");
  CHECK(render(deep + "{{ ns.n == [ns.n] }}") == "False");
}

TEST_CASE("templates render in many threads at once, those that are refused too") {
  const ChatTemplate good("{% for m in messages %}{{ m.content }}{% endfor %}", Json::object());
  const ChatTemplate bad(repeated("{% set ns.x = ns.x ~ ns.x %}"), Json::object());
  std::atomic<int> refused = 0;
  std::atomic<int> rendered = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int n = 0; n < 50; ++n) {
        rendered += good.render(kQuestion) == "hi" ? 1 : 0;
        try {
          bad.render(kQuestion);
        } catch (const ModelError&) {
          ++refused;
        }
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  CHECK(rendered == 200);
  CHECK(refused == 200);
}

TEST_CASE("a template that does not parse is a ModelError with its line") {
  const auto broken =
      message_of<ModelError>([] { ChatTemplate("a\n{% if x %}\n{% endfor %}", Json::object()); });
  CHECK(broken.find("does not parse") != std::string::npos);
  CHECK(broken.find("line 3") != std::string::npos);
}

TEST_CASE("messages of the wrong shape are DataErrors") {
  const ChatTemplate chat_template("x", Json::object());
  CHECK_THROWS_AS(chat_template.render(Json::array()), DataError);
  CHECK_THROWS_AS(chat_template.render(Json::object()), DataError);
  CHECK_THROWS_AS(chat_template.render(Json::array({"hi"})), DataError);
}

} // namespace
} // namespace temper
