// From a rendered chat to token ids and the mask of what the assistant wrote.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "temper/text/chat_template.h"
#include "temper/text/tokenizer.h"

namespace temper {

struct EncodedChat {
  std::vector<std::int32_t> ids;
  std::vector<std::uint8_t> supervised; // [ids]: 1 where the assistant wrote the token
};

// As transformers' apply_chat_template does: the template writes BOS or there is none, so nothing is added
// to what it rendered. (Plain text and prompts are encoded with add_special_tokens instead.)
EncodedChat encode_chat(const Tokenizer& tokenizer, const RenderedChat& chat);
// The same without spans: a prompt for generation.
std::vector<std::int32_t> encode_rendered(const Tokenizer& tokenizer, std::string_view text);

// 1 for each token that a span touches. A token whose own span is empty (tokenizers may trim space off
// offsets, to nothing for a line break) lies at that place and counts inside a span or at its end; tokens
// that the tokenizer added, at 0, never count. `spans`: in order, not overlapping.
std::vector<std::uint8_t> supervised_mask(std::span<const TextSpan> offsets, std::span<const TextSpan> spans);

} // namespace temper
