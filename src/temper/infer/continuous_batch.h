// Many texts generated at once, token by token: as texts end, waiting prompts take their places while the
// others go on.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "temper/infer/model_view.h"
#include "temper/infer/sampler.h"

namespace temper {

struct BatchPrompt {
  std::vector<std::int32_t> tokens;
  std::uint64_t text = 0; // which of the run's texts it is: what it draws depends on the seed and this
  int max_tokens = 0;     // to generate; 0: what the caller says for all
};

struct BatchOptions {
  SamplerOptions sampling;
  int max_tokens = 256;
  int prefill_chunk = 512; // prompt tokens a pass
  int batch_size = 32;     // texts at once
  std::function<bool()> cancelled{};
};

// What a batch took, all texts together.
struct BatchSpeed {
  std::int64_t prompt_tokens = 0;
  std::int64_t reused_tokens = 0; // of the prompts', read once for several of them
  std::int64_t tokens = 0;        // generated, those that end texts not counted
  double prompt_seconds = 0;      // of the passes that read prompts
  double seconds = 0;             // in all

  // Prompt tokens read a second of reading; tokens a second of the rest. 0 where there is no time.
  double prompt_tokens_per_second() const;
  double tokens_per_second() const;
};

// Gets the next token of prompt `index`; false ends the text.
using TokenCallback = std::function<bool(std::size_t index, std::int32_t token)>;

// Continues every prompt until `on_token` ends it or it has its most tokens. `on_begin` is called before a
// prompt is read. False after a cancellation: texts are unfinished. `speed` is filled as it goes, but for
// `tokens`. Evaluating. Throws ConfigError (options, an empty prompt), ModelError (a token beyond the
// vocabulary).
bool run_batch(const ModelView& model, const std::vector<BatchPrompt>& prompts, const BatchOptions& options,
               const std::function<void(std::size_t index)>& on_begin, const TokenCallback& on_token,
               BatchSpeed& speed);

// The order in which prompts are taken up: those that begin alike follow each other, long ones first, so that
// what runs together wastes little on padding and a lack of memory shows at once.
struct BatchOrder {
  std::vector<std::size_t> indices;
  std::vector<bool> ends; // whether the next one begins otherwise
};
BatchOrder batch_order(const std::vector<BatchPrompt>& prompts, int batch_size);

} // namespace temper
