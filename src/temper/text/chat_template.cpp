#include "temper/text/chat_template.h"

#include <algorithm>
#include <ctime>

#include "temper/base/error.h"
#include "temper/text/assistant_spans.h"
#include "temper/text/bridge.h"

namespace temper {
namespace {

// The local time, in the order that temper_template_render wants.
Json local_time() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  localtime_r(&now, &parts);
  return Json::array({parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday, parts.tm_hour, parts.tm_min,
                      parts.tm_sec, parts.tm_wday, parts.tm_yday});
}

// As transformers does before it renders: keys that are null are left out, and a message's thoughts are
// found under each of the names that templates use.
Json normalized(const Json& messages) {
  if (!messages.is_array() || messages.empty()) {
    throw DataError("a chat needs an array of at least one message");
  }
  Json out = Json::array();
  for (const Json& message : messages) {
    if (!message.is_object()) {
      throw DataError("a chat message must be an object with role and content, not " + dump(message));
    }
    Json kept = Json::object();
    for (const auto& [key, value] : message.items()) {
      if (!value.is_null()) {
        kept[key] = value;
      }
    }
    for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
      if (const auto thoughts = kept.find(name); thoughts != kept.end()) {
        const auto value = thoughts->get<Json>(); // a copy: the next line may move what it stands in
        kept["reasoning_content"] = value;
        if (!kept.contains("thinking")) {
          kept["thinking"] = value;
        }
        break;
      }
    }
    out.push_back(std::move(kept));
  }
  return out;
}

struct Rendering {
  std::string text;
  std::vector<TextSpan> generated; // by {% generation %}
};

Rendering take(TemperRendering raw) {
  Rendering out;
  out.text.assign(raw.text.data, raw.text.size);
  for (std::size_t i = 0; i < raw.num_spans; ++i) {
    out.generated.push_back({raw.spans[i].begin, raw.spans[i].end});
  }
  temper_rendering_free(raw);
  return out;
}

std::vector<std::size_t> assistant_messages(const Json& messages) {
  std::vector<std::size_t> out;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].value("role", "") == "assistant") {
      out.push_back(i);
    }
  }
  return out;
}

} // namespace

struct ChatTemplate::Impl {
  std::string name;
  std::string source;
  Json specials;
  bridge::TemplatePtr compiled;

  Json context(const RenderOptions& options) const {
    Json out = Json::object();
    out["tools"] = options.tools;
    out["documents"] = nullptr;
    out.update(specials);
    out.update(options.variables);
    out["__now"] = local_time();
    return out;
  }

  // `base`: what context() made, which is completed.
  Rendering render(Json& base, const Json& messages, bool add_generation_prompt) const {
    base["messages"] = messages;
    base["add_generation_prompt"] = add_generation_prompt;
    const auto variables = dump(base);
    TemperRendering raw{};
    TemperText error{};
    const int status = temper_template_render(compiled.get(), variables.data(), variables.size(), &raw, &error);
    if (status == TEMPER_TEMPLATE_TOO_LARGE) {
      throw ModelError(name + " can't be rendered: " + bridge::take(error));
    }
    bridge::check<DataError>(status, error, "");
    return take(raw);
  }

  // The message that each of `num_spans` generated spans is of: one each, or else by how many spans the chat
  // has when it ends with that message.
  std::vector<std::size_t> span_messages(Json& base, const Json& messages, std::size_t num_spans) const {
    auto assistants = assistant_messages(messages);
    if (assistants.size() == num_spans) {
      return assistants;
    }
    std::vector<std::size_t> out;
    Json head = Json::array();
    for (std::size_t i = 0; i < messages.size(); ++i) {
      head.push_back(messages[i]);
      out.resize(std::max(out.size(), render(base, head, false).generated.size()), i);
    }
    if (out.size() != num_spans) {
      throw DataError(
          "can't tell which messages the chat template's {% generation %} blocks belong to; "
          "put one around each assistant message");
    }
    return out;
  }
};

ChatTemplate::ChatTemplate(std::string source, Json specials, const std::string& name)
    : impl_(std::make_unique<Impl>()) {
  impl_->name = name == "default" ? "the chat template" : "the chat template " + name;
  TemperTemplate* compiled = nullptr;
  TemperText error{};
  const int status = temper_template_new(source.data(), source.size(), &compiled, &error);
  const bool too_large = status == TEMPER_TEMPLATE_TOO_LARGE;
  bridge::check<ModelError>(status, error,
                            impl_->name + (too_large ? " can't be compiled: " : " does not parse: "));
  impl_->compiled.reset(compiled);
  impl_->source = std::move(source);
  impl_->specials = std::move(specials);
}

ChatTemplate::~ChatTemplate() = default;

std::string ChatTemplate::render(const Json& messages, const RenderOptions& options) const {
  Json variables = impl_->context(options);
  return impl_->render(variables, normalized(messages), options.add_generation_prompt).text;
}

RenderedChat ChatTemplate::render_with_spans(const Json& messages, const RenderOptions& options) const {
  const Json chat = normalized(messages);
  Json variables = impl_->context(options); // one clock for all renderings below
  Rendering whole = impl_->render(variables, chat, options.add_generation_prompt);
  if (temper_template_marks_generation(impl_->compiled.get()) != 0) {
    auto owners = impl_->span_messages(variables, chat, whole.generated.size());
    return {std::move(whole.text), std::move(whole.generated), std::move(owners)};
  }
  const auto again = [&](const Json& part, bool prompt) { return impl_->render(variables, part, prompt).text; };
  auto spans = find_assistant_spans(chat, whole.text, options.add_generation_prompt, again);
  return {std::move(whole.text), std::move(spans), assistant_messages(chat)};
}

const std::string& ChatTemplate::source() const {
  return impl_->source;
}

} // namespace temper
