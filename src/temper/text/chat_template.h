// Chat templates: Jinja as transformers renders it (apply_chat_template), with the text spans that the
// assistant wrote. Source: https://huggingface.co/docs/transformers/chat_templating.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "temper/base/json.h"

namespace temper {

// Bytes [begin, end) of a text.
struct TextSpan {
  std::size_t begin = 0;
  std::size_t end = 0;
  bool operator==(const TextSpan&) const = default;
};

struct RenderOptions {
  bool add_generation_prompt = false;
  Json tools = nullptr;            // an array of tool schemas, or null
  Json variables = Json::object(); // more template variables, e.g. enable_thinking
};

struct RenderedChat {
  std::string text;
  // In order: an assistant turn's content and what closes the turn (the end-of-turn token), without the
  // header that a generation prompt would already hold and without space after the closing token. A template
  // with {% generation %} blocks may give a turn several spans, or none.
  std::vector<TextSpan> assistant_spans;
  std::vector<std::size_t> span_messages; // the index of the message that each span is of
};

class ChatTemplate {
 public:
  // `specials` holds bos_token, eos_token, pad_token ... as the template's variables; errors say `name`.
  // Throws ModelError if the source does not parse.
  ChatTemplate(std::string source, Json specials, const std::string& name = "default");
  ~ChatTemplate();

  // `messages`: array of {role, content, tool_calls?, ...}; keys that are null count as absent. Throws
  // DataError with the template's own words when it raises (raise_exception) or uses what a message lacks;
  // ModelError when it would take more than 64 MiB of memory (plus 8 times the messages' size), and ever after.
  std::string render(const Json& messages, const RenderOptions& options = {}) const;
  // render() and where the assistant speaks: the template's own {% generation %} blocks if it has them, else
  // a span for every assistant turn, found by rendering (assistant_spans.h). Throws DataError also when a
  // turn's place can't be told.
  RenderedChat render_with_spans(const Json& messages, const RenderOptions& options = {}) const;

  const std::string& source() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

} // namespace temper
