#include "temper/infer/answer.h"

#include <algorithm>

namespace temper {

Answer::Answer(std::shared_ptr<const Tokenizer> tokenizer, const GenerationOptions& options, int max_tokens)
    : tokenizer_(std::move(tokenizer)),
      detokenizer_(tokenizer_),
      stops_(options.stop),
      options_(&options),
      max_tokens_(max_tokens) {
}

std::string Answer::add(std::int32_t token) {
  const auto& ids = tokenizer_->stop_ids();
  if (options_->stop_at_eos && std::binary_search(ids.begin(), ids.end(), token)) {
    return finish("stop");
  }
  result.tokens.push_back(token);
  auto text = stops_.add(detokenizer_.add(token));
  result.text += text;
  if (stops_.stopped()) {
    result.finish_reason = "stop";
  } else if (static_cast<int>(result.tokens.size()) >= max_tokens_) {
    text += finish("length");
  }
  return text;
}

std::string Answer::finish(const std::string& reason) {
  result.finish_reason = reason;
  auto text = stops_.add(detokenizer_.finish());
  text += stops_.finish();
  if (stops_.stopped()) {
    result.finish_reason = "stop";
  }
  result.text += text;
  return text;
}

} // namespace temper
