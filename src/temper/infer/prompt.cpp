#include "temper/infer/prompt.h"

#include "temper/base/error.h"
#include "temper/text/encode_chat.h"

namespace temper {

std::vector<std::int32_t> encode_plain(const Tokenizer& tokenizer, const std::string& text) {
  const auto bos = tokenizer.bos_id();
  const bool has_bos = bos && text.starts_with(tokenizer.id_to_token(*bos));
  auto ids = tokenizer.encode(text, !has_bos);
  const auto eos = tokenizer.eos_id();
  if (!ids.empty() && eos && ids.back() == *eos && !text.ends_with(tokenizer.id_to_token(*eos))) {
    ids.pop_back();
  }
  return ids;
}

std::vector<std::int32_t> encode_messages(const Tokenizer& tokenizer, const Json& messages,
                                          RenderOptions options) {
  const auto* chat_template = options.tools.is_null() ? nullptr : tokenizer.chat_template("tool_use");
  chat_template = chat_template != nullptr ? chat_template : tokenizer.chat_template();
  if (chat_template == nullptr) {
    throw ModelError("the model has no chat template (chat_template.jinja or tokenizer_config.json)");
  }
  options.add_generation_prompt = true;
  return encode_rendered(tokenizer, chat_template->render(messages, options));
}

std::vector<std::int32_t> encode_prompt(const Tokenizer& tokenizer, const std::string& prompt,
                                        const PromptOptions& options) {
  if (prompt.empty()) {
    throw ConfigError("prompt: it is empty; say something");
  }
  if (options.raw || tokenizer.chat_template() == nullptr) {
    return encode_plain(tokenizer, options.system.empty() ? prompt : options.system + "\n\n" + prompt);
  }
  auto messages = Json::array();
  if (!options.system.empty()) {
    messages.push_back({{"role", "system"}, {"content", options.system}});
  }
  messages.push_back({{"role", "user"}, {"content", prompt}});
  RenderOptions render;
  render.variables = options.variables;
  return encode_messages(tokenizer, messages, render);
}

} // namespace temper
