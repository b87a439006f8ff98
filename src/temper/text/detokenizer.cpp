#include <string_view>
#include <utility>

#include "temper/text/tokenizer.h"

namespace temper {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD"; // what half a character decodes to

// "<0x0A>": a byte of its own. A run of these is decoded together, so the next one may still change it.
bool is_byte(std::string_view token) {
  return token.size() == 6 && token.starts_with("<0x") && token.ends_with('>');
}

// What `now` has beyond `before`.
std::string beyond(std::string_view now, std::string_view before) {
  return now.size() > before.size() ? std::string(now.substr(before.size())) : std::string();
}

} // namespace

StreamingDetokenizer::StreamingDetokenizer(std::shared_ptr<const Tokenizer> tokenizer)
    : tokenizer_(std::move(tokenizer)) {
}

std::string StreamingDetokenizer::pending() const {
  const std::span<const std::int32_t> ids(ids_);
  return beyond(tokenizer_->decode(ids.subspan(prefix_)),
                tokenizer_->decode(ids.subspan(prefix_, printed_ - prefix_)));
}

std::string StreamingDetokenizer::add(std::int32_t id) {
  ids_.push_back(id);
  if (is_byte(tokenizer_->id_to_token(id))) {
    return {};
  }
  std::string text = pending();
  if (text.empty() || text.ends_with(kReplacement)) {
    return {};
  }
  prefix_ = std::exchange(printed_, ids_.size());
  return text;
}

std::string StreamingDetokenizer::finish() {
  std::string text = pending();
  prefix_ = std::exchange(printed_, ids_.size());
  return text;
}

} // namespace temper
