#include "temper/text/encode_chat.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace temper {
namespace {

bool touches(const TextSpan& token, const TextSpan& span) {
  if (token.begin == token.end) {
    return token.end > span.begin && token.end <= span.end;
  }
  return token.begin < span.end && token.end > span.begin;
}

// `span` lies wholly before `token`.
bool precedes(const TextSpan& span, const TextSpan& token) {
  return token.begin == token.end ? span.end < token.end : span.end <= token.begin;
}

} // namespace

std::vector<std::uint8_t> supervised_mask(std::span<const TextSpan> offsets, std::span<const TextSpan> spans) {
  std::vector<TextSpan> written;
  std::copy_if(spans.begin(), spans.end(), std::back_inserter(written),
               [](const TextSpan& span) { return span.begin < span.end; });
  std::vector<std::uint8_t> mask;
  mask.reserve(offsets.size());
  for (const TextSpan& token : offsets) {
    const auto next = std::partition_point(written.begin(), written.end(),
                                           [&](const TextSpan& span) { return precedes(span, token); });
    mask.push_back(next != written.end() && touches(token, *next) ? 1 : 0);
  }
  return mask;
}

EncodedChat encode_chat(const Tokenizer& tokenizer, const RenderedChat& chat) {
  Encoding encoding = tokenizer.encode_with_offsets(chat.text, false);
  auto mask = supervised_mask(encoding.offsets, chat.assistant_spans);
  return {std::move(encoding.ids), std::move(mask)};
}

std::vector<std::int32_t> encode_rendered(const Tokenizer& tokenizer, std::string_view text) {
  return tokenizer.encode(text, false);
}

} // namespace temper
