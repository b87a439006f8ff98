// One answer while it grows.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "temper/infer/generate.h"
#include "temper/text/stop_strings.h"

namespace temper {

class Answer {
 public:
  // `options` must outlive it; `max_tokens` counts in place of its own.
  Answer(std::shared_ptr<const Tokenizer> tokenizer, const GenerationOptions& options, int max_tokens);

  // Takes the next token and returns the text that may be shown now.
  std::string add(std::int32_t token);
  // Ends the answer and returns the text that was kept back.
  std::string finish(const std::string& reason);

  bool is_finished() const {
    return !result.finish_reason.empty();
  }
  // Whether it has room for a token after the next.
  bool wants_two() const {
    return static_cast<int>(result.tokens.size()) + 1 < max_tokens_;
  }

  GenerationResult result;

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  StreamingDetokenizer detokenizer_;
  StopStrings stops_;
  const GenerationOptions* options_;
  int max_tokens_;
};

} // namespace temper
