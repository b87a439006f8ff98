#include "temper/data/row_encoder.h"

#include <algorithm>
#include <utility>

#include "temper/base/error.h"
#include "temper/text/encode_chat.h"

namespace temper {
namespace {

const ChatTemplate& template_for(const Tokenizer& tokenizer, const Json& tools) {
  const ChatTemplate* found = tools.is_null() ? nullptr : tokenizer.chat_template("tool_use");
  found = found != nullptr ? found : tokenizer.chat_template();
  if (found == nullptr) {
    throw DataError(
        "the data holds chats but the model has no chat template; take an instruct model, put a "
        "chat_template.jinja into the model folder, or use prompt and completion rows");
  }
  return *found;
}

// What `render` returns; the template's refusal becomes the row's error.
template <typename Render>
auto rendered(Render render) {
  try {
    return render();
  } catch (const DataError& error) {
    throw RowError(std::string("the chat template refuses it: ") + error.what());
  }
}

bool begins_with_bos(const Tokenizer& tokenizer, const std::string& text) {
  const auto bos = tokenizer.bos_id();
  const auto written = bos ? tokenizer.id_to_token(*bos) : std::string();
  return !written.empty() && text.starts_with(written);
}

// The assistant turns that are to be learned: from first_target on, not those of OpenAI's "weight": 0.
std::vector<TextSpan> target_spans(const RenderedChat& chat, const Json& messages, std::size_t first_target,
                                   bool last_only) {
  std::vector<TextSpan> targets;
  std::size_t last = 0;
  for (std::size_t i = 0; i < chat.assistant_spans.size(); ++i) {
    const auto message = chat.span_messages[i];
    const auto weight = messages[message].find("weight");
    const bool ignored = weight != messages[message].end() && weight->is_number() && *weight == 0;
    if (message < first_target || ignored) {
      continue;
    }
    if (last_only && message != last) {
      targets.clear();
    }
    last = message;
    targets.push_back(chat.assistant_spans[i]);
  }
  return targets;
}

EncodedRow from_encoding(Encoding encoding, std::string text) {
  EncodedRow row;
  row.example.tokens = std::move(encoding.ids);
  row.example.supervised.assign(row.example.tokens.size(), 0);
  row.offsets = std::move(encoding.offsets);
  row.text = std::move(text);
  return row;
}

} // namespace

RowEncoder::RowEncoder(std::shared_ptr<const Tokenizer> tokenizer, EncodeOptions options)
    : tokenizer_(std::move(tokenizer)), options_(options) {
}

EncodedRow RowEncoder::encode(const Record& record) const {
  EncodedRow row;
  if (options_.compat_mlx_lm) {
    row = encode_mlx_lm(record);
  } else if (record.text) {
    row = encode_plain("", *record.text);
  } else if (!record.messages.is_null()) {
    row = encode_chat(record.messages, record);
  } else if (tokenizer_->chat_template() != nullptr) {
    row = encode_chat(record.prompt_messages(), record);
  } else {
    row = encode_plain(*record.plain_prompt, *record.completion);
  }
  finish(row);
  return row;
}

EncodedRow RowEncoder::encode_chat(const Json& messages, const Record& record) const {
  const auto& chat_template = template_for(*tokenizer_, record.tools);
  RenderOptions render;
  render.tools = record.tools;
  auto chat = rendered([&] { return chat_template.render_with_spans(messages, render); });
  auto encoding = tokenizer_->encode_with_offsets(chat.text, false);
  EncodedRow row = from_encoding(std::move(encoding), std::move(chat.text));
  if (options_.mask_prompt) {
    row.example.supervised = supervised_mask(
        row.offsets, target_spans(chat, messages, record.first_target, options_.last_turn_only));
  } else {
    std::ranges::fill(row.example.supervised, 1);
  }
  return row;
}

EncodedRow RowEncoder::encode_plain(const std::string& prompt, const std::string& completion) const {
  std::string text = prompt + completion;
  auto encoding = tokenizer_->encode_with_offsets(text, !begins_with_bos(*tokenizer_, text));
  EncodedRow row = from_encoding(std::move(encoding), std::move(text));
  if (options_.mask_prompt && !prompt.empty()) {
    const TextSpan target{prompt.size(), row.text.size()};
    row.example.supervised = supervised_mask(row.offsets, {&target, 1});
  } else {
    std::ranges::fill(row.example.supervised, 1);
  }
  auto& example = row.example;
  if (const auto eos = tokenizer_->eos_id()) {
    if (example.tokens.empty() || example.tokens.back() != *eos) {
      example.tokens.push_back(*eos);
      example.supervised.push_back(1);
      row.offsets.push_back({row.text.size(), row.text.size()});
    }
    example.supervised.back() = 1;
  }
  return row;
}

// mlx-lm masks by counting the tokens of the chat before its last message, and passes enable_thinking.
// Source: mlx-lm 0.32.2, tuner/datasets.py and tokenizer_utils.py (apply_chat_template).
EncodedRow RowEncoder::encode_mlx_lm(const Record& record) const {
  if (record.text) {
    auto encoding = tokenizer_->encode_with_offsets(*record.text, true);
    EncodedRow row = from_encoding(std::move(encoding), *record.text);
    if (const auto eos = tokenizer_->eos_id(); eos && row.example.tokens.back() != *eos) {
      row.example.tokens.push_back(*eos);
      row.offsets.push_back({row.text.size(), row.text.size()});
    }
    row.example.supervised.assign(row.example.tokens.size(), 1);
    return row;
  }
  Json messages = record.messages.is_null() ? record.prompt_messages() : record.messages;
  const auto& chat_template = template_for(*tokenizer_, Json(nullptr));
  RenderOptions render;
  render.tools = record.tools;
  render.variables["enable_thinking"] =
      tokenizer_->token_to_id("<think>").has_value() && tokenizer_->token_to_id("</think>").has_value();
  auto text = rendered([&] { return chat_template.render(messages, render); });
  auto encoding = tokenizer_->encode_with_offsets(text, false);
  EncodedRow row = from_encoding(std::move(encoding), std::move(text));
  std::size_t offset = 0;
  if (options_.mask_prompt) {
    render.add_generation_prompt = messages.back().value("role", "") == "assistant";
    messages.erase(messages.size() - 1);
    const auto before = rendered([&] { return chat_template.render(messages, render); });
    offset = tokenizer_->encode(before, false).size();
  }
  for (std::size_t i = offset; i < row.example.supervised.size(); ++i) {
    row.example.supervised[i] = 1;
  }
  return row;
}

void RowEncoder::finish(EncodedRow& row) const {
  auto& [tokens, supervised] = row.example;
  const auto targets = [&](auto begin) { return std::count(begin, supervised.end(), std::uint8_t{1}); };
  const std::ptrdiff_t first = supervised.empty() ? 0 : 1;
  const auto before = targets(supervised.begin() + first);
  row.full_length = static_cast<std::int64_t>(tokens.size());
  row.truncated = row.full_length > options_.max_seq_length;
  if (row.truncated && !options_.compat_mlx_lm) {
    tokens.resize(static_cast<std::size_t>(options_.max_seq_length));
    supervised.resize(tokens.size());
    row.offsets.resize(tokens.size());
  }
  row.num_supervised = targets(supervised.begin() + first);
  row.lost_labels = row.truncated && before > 0 && row.num_supervised == 0;
  row.learns_to_stop = row.truncated;
  for (std::size_t i = 1; i < tokens.size() && !row.learns_to_stop; ++i) {
    row.learns_to_stop = supervised[i] != 0 && std::ranges::binary_search(tokenizer_->stop_ids(), tokens[i]);
  }
}

} // namespace temper
