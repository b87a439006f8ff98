#include "temper/text/assistant_spans.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string_view>

#include "temper/base/error.h"
#include "temper/base/json_text.h"

namespace temper {
namespace {

constexpr std::string_view kSpace = " \t\r\n";

std::string_view trim_end(std::string_view text) {
  return text.substr(0, text.find_last_not_of(kSpace) + 1); // npos + 1 is 0
}

std::string_view trim(std::string_view text) {
  text = trim_end(text);
  return text.substr(std::min(text.find_first_not_of(kSpace), text.size()));
}

bool is_blank(std::string_view text) {
  return trim_end(text).empty();
}

// How much of `text` is what `expected` says. When they part in the middle of something, back to the last
// place where markup or a line ends: "<|end|>\n<|user|>" against "<|end|>\n<|eos|>" gives "<|end|>\n".
std::size_t agreeing(std::string_view text, std::string_view expected) {
  const auto parted = std::mismatch(text.begin(), text.end(), expected.begin(), expected.end());
  const auto size = static_cast<std::size_t>(parted.first - text.begin());
  if (size == text.size() || size == expected.size()) {
    return size;
  }
  const auto end = size == 0 ? std::string_view::npos : text.find_last_of(">]\n", size - 1);
  return end == std::string_view::npos ? 0 : end + 1;
}

// `message` with `mark` after its last piece of text: the name of its last tool call, else its content.
std::optional<Json> mark_tool_call(Json message, const std::string& mark) {
  const auto calls = message.find("tool_calls");
  if (calls == message.end() || !calls->is_array() || calls->empty() || !calls->back().is_object()) {
    return std::nullopt;
  }
  Json& call = calls->back();
  Json& function = call.contains("function") && call["function"].is_object() ? call["function"] : call;
  if (!function.contains("name") || !function["name"].is_string()) {
    return std::nullopt;
  }
  function["name"] = function["name"].get<std::string>() + mark;
  return message;
}

Json mark_content(Json message, const std::string& mark, bool at_end) {
  const auto put = [&](Json& text) {
    const auto old = text.get<std::string>();
    text = at_end ? old + mark : mark + old;
  };
  Json& content = message["content"];
  if (content.is_string()) {
    put(content);
    return message;
  }
  if (content.is_array()) {
    const auto is_text = [](const Json& part) {
      return part.is_object() && part.contains("text") && part["text"].is_string();
    };
    std::vector<Json*> parts;
    for (Json& part : content) {
      if (is_text(part)) {
        parts.push_back(&part);
      }
    }
    if (!parts.empty()) {
      put((at_end ? *parts.back() : *parts.front())["text"]);
      return message;
    }
  }
  content = mark;
  return message;
}

class SpanFinder {
 public:
  SpanFinder(const Json& messages, const std::string& text, bool add_generation_prompt,
             const RenderMessages& render)
      : messages_(messages), text_(text), prompted_(add_generation_prompt), render_(render) {
    for (int n = 0; mark_.empty() || text_.find(mark_) != std::string::npos; ++n) {
      mark_ = "Qzj" + std::to_string(n) + "xkQ";
    }
  }

  std::vector<TextSpan> find() {
    std::vector<TextSpan> spans;
    std::size_t number = 0;
    for (std::size_t i = 0; i < messages_.size(); ++i) {
      if (messages_[i].value("role", "") != "assistant") {
        continue;
      }
      ++number;
      const auto from = spans.empty() ? 0 : spans.back().end;
      const auto begin = turn_begin(i, from);
      const auto end = begin ? turn_end(i, *begin) : std::nullopt;
      if (!end || *begin < from || *end < *begin) {
        throw DataError("can't tell where assistant turn " + std::to_string(number) +
                        " lies in the rendered chat; mark the assistant's text in the chat template with "
                        "{% generation %} ... {% endgeneration %}, or train without mask_prompt");
      }
      spans.push_back({*begin, *end});
    }
    return spans;
  }

 private:
  using Place = std::optional<std::size_t>;

  // What precedes message `count` and on; nothing if the template refuses a chat that ends there.
  std::optional<std::string> render(const Json& messages, std::size_t count, bool prompt) const {
    Json head = Json::array();
    for (std::size_t i = 0; i < count; ++i) {
      head.push_back(messages[i]);
    }
    try {
      return render_(head, prompt);
    } catch (const DataError&) {
      return std::nullopt;
    }
  }

  // The chat with message `i` replaced.
  Json with(std::size_t i, Json message) const {
    Json changed = messages_;
    changed[i] = std::move(message);
    return changed;
  }

  // The text after the mark, where `changed`'s first `count` messages are rendered.
  std::optional<std::string> after_mark(const Json& changed, std::size_t count, bool prompt) const {
    const auto text = render(changed, count, prompt);
    const auto place = text ? text->rfind(mark_) : std::string::npos;
    return place == std::string::npos ? std::nullopt : std::optional(text->substr(place + mark_.size()));
  }

  // Where in text_ a mark at the end of message `i` would stand, and the chat that has it.
  struct Anchor {
    std::size_t place;
    Json chat;
  };
  std::optional<Anchor> anchor(std::size_t i) const {
    std::vector<Json> candidates;
    if (auto marked = mark_tool_call(messages_[i], mark_)) {
      candidates.push_back(*std::move(marked));
    }
    candidates.push_back(mark_content(messages_[i], mark_, true));
    for (Json& candidate : candidates) {
      Json chat = with(i, std::move(candidate));
      const auto rest = after_mark(chat, chat.size(), prompted_);
      if (rest && text_.ends_with(*rest)) {
        return Anchor{text_.size() - rest->size(), std::move(chat)};
      }
    }
    return std::nullopt;
  }

  // Where message `i`'s content begins.
  Place content_begin(std::size_t i) const {
    const auto chat = with(i, mark_content(messages_[i], mark_, false));
    const auto text = render(chat, chat.size(), prompted_);
    const auto place = text ? text->find(mark_) : std::string::npos;
    if (place == std::string::npos || !text_.starts_with(std::string_view(*text).substr(0, place))) {
      return std::nullopt;
    }
    return place;
  }

  Place turn_begin(std::size_t i, std::size_t from) const {
    const auto prompt = render(messages_, i, true);
    if (prompt && text_.starts_with(*prompt)) {
      return prompt->size();
    }
    const auto content = content_begin(i);
    if (i > 0) {
      if (const auto before = anchor(i - 1)) {
        if (const auto expected = after_mark(before->chat, i, true)) {
          const auto rest = std::string_view(text_).substr(before->place);
          const auto begin = before->place + agreeing(rest, *expected);
          return content ? std::min(begin, *content) : begin;
        }
      }
    }
    return content ? Place(after_header(*content, from)) : std::nullopt;
  }

  // The turn whose content begins at `content` begins after the generation prompt that precedes it.
  std::size_t after_header(std::size_t content, std::size_t from) const {
    const Json question = Json::array({{{"role", "user"}, {"content", "x"}}});
    const auto plain = render(question, 1, false);
    const auto prompted = render(question, 1, true);
    if (!plain || !prompted || !prompted->starts_with(*plain) || prompted->size() == plain->size()) {
      return content;
    }
    const auto header = prompted->substr(plain->size());
    const auto place = std::string_view(text_).substr(0, content).rfind(header);
    return place == std::string::npos || place < from ? content : place + header.size();
  }

  Place turn_end(std::size_t i, std::size_t begin) const {
    const bool last = i + 1 == messages_.size();
    const auto turn = last && !prompted_ ? std::optional(text_) : render(messages_, i + 1, false);
    if (!turn || !text_.starts_with(*turn)) {
      return marked_end(i);
    }
    const auto written = text_at(messages_[i], "content");
    const auto content = trim(written);
    const auto shown = trim_end(*turn);
    if (shown.size() > begin && (content.empty() || !shown.ends_with(content))) {
      return shown.size();
    }
    // It seems that nothing but space closes the turn, or the content looks like what closes it.
    const auto end = marked_end(i);
    return end ? end : turn->size();
  }

  Place marked_end(std::size_t i) const {
    const auto found = anchor(i);
    const auto expected = found ? after_mark(found->chat, i + 1, false) : std::nullopt;
    if (!expected) {
      return std::nullopt;
    }
    const auto rest = std::string_view(text_).substr(found->place);
    auto size = agreeing(rest, *expected);
    if (is_blank(*expected) && i + 1 < messages_.size()) {
      // The next message may be what writes this turn's end; then the generation prompt writes it too.
      if (const auto prompted = after_mark(found->chat, i + 1, true)) {
        size = std::max(size, agreeing(rest, *prompted));
      }
    }
    const auto closing = rest.substr(0, size);
    return found->place + (is_blank(closing) ? size : trim_end(closing).size());
  }

  const Json& messages_;
  const std::string& text_;
  bool prompted_;
  const RenderMessages& render_;
  std::string mark_;
};

} // namespace

std::vector<TextSpan> find_assistant_spans(const Json& messages, const std::string& text,
                                           bool add_generation_prompt, const RenderMessages& render) {
  return SpanFinder(messages, text, add_generation_prompt, render).find();
}

} // namespace temper
