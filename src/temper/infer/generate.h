// Text out of a model: one answer as it grows. Many prompts at once: generate_batch.h.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "temper/infer/model_view.h"
#include "temper/infer/sampler.h"
#include "temper/infer/token_stream.h"
#include "temper/text/tokenizer.h"

namespace temper {

struct GenerationOptions {
  SamplerOptions sampling;
  int max_tokens = 256;
  std::vector<std::string> stop{};   // texts that end an answer, wherever the tokens' borders fall
  bool stop_at_eos = true;           // the tokenizer's stop_ids()
  int prefill_chunk = 512;           // prompt tokens a pass
  int batch_size = 32;               // prompts at once (generate_batch)
  std::function<bool()> cancelled{}; // asked between passes; true ends generation
};

struct GenerationResult {
  std::string text;                 // without the stop string, special tokens left out
  std::vector<std::int32_t> tokens; // generated, without the stop token
  std::string finish_reason;        // stop, length, cancelled
  int prompt_tokens = 0;
  int reused_tokens = 0;       // of the prompt, known from the text before
  double prompt_seconds = 0;   // until the first token was there
  double generate_seconds = 0; // from the first token to the last
  std::int64_t peak_bytes = 0; // of the allocator, since it was last reset

  // Prompt tokens read (not reused) a second; tokens after the first a second. 0 where there is no time.
  double prompt_tokens_per_second() const;
  double tokens_per_second() const;
};

// Gets the text that a token completed, often empty; false ends the answer.
using TextCallback = std::function<bool(std::string_view text)>;

// Throws ConfigError naming the option that is out of range.
void validate(const GenerationOptions& options);

// Answers one after another, keeping the text before in its cache: a prompt that begins like it is read from
// where the two part.
class Generator {
 public:
  Generator(const ModelView& model, std::shared_ptr<const Tokenizer> tokenizer);

  // Evaluating. Throws ConfigError (empty prompt, options), ModelError (a token beyond the vocabulary).
  GenerationResult generate(std::span<const std::int32_t> prompt, const GenerationOptions& options,
                            const TextCallback& on_text = nullptr);
  // Forgets the text before.
  void reset();

  // What is kept of the first `prompt_tokens` tokens of the text before (TokenStream::cached()).
  PromptCache cached(int prompt_tokens) const;
  // As if `cached`'s tokens were the beginning of the text before.
  void adopt(PromptCache cached);

 private:
  TokenStream& stream(const GenerationOptions& options);

  ModelView model_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<TokenStream> stream_;
};

} // namespace temper
