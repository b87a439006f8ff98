// Texts continued token by token: prefill in chunks, then one step ahead of the caller, so that the device
// computes the next token while the host handles the last.
// Dims: B rows (texts), T tokens a pass, W longest prompt, V vocabulary.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "temper/infer/kv_cache.h"
#include "temper/infer/model_view.h"
#include "temper/infer/sampler.h"

namespace temper {

class TokenStream {
 public:
  // Throws ConfigError if the sampler's options are out of range. `prefill_chunk`: prompt tokens a pass.
  TokenStream(const ModelView& model, const SamplerOptions& sampling, int prefill_chunk = 512);

  // Reads the prompts, one row each, padded on the left to a common width; no row sees another. A single prompt
  // that begins like the text before is read from where the two part. Evaluating, except for the last chunk.
  // `cancelled` is asked between chunks; when true, nothing was started and false is returned. Throws
  // ConfigError if a prompt is empty, ModelError if a token is not in the vocabulary.
  bool start(const std::vector<std::vector<std::int32_t>>& prompts,
             const std::function<bool()>& cancelled = nullptr);

  // The next token of each row. `more`: begin to compute the ones after already; without it the rows end here.
  std::vector<std::int32_t> next(bool more);

  // Goes on with these rows (ascending indices) alone.
  void keep_rows(const std::vector<std::int32_t>& rows);

  // Changes how the next start()'s texts are sampled.
  void set_sampling(const SamplerOptions& sampling);
  // Forgets the text before.
  void reset();
  // Prompt tokens that start() did not have to read again.
  int num_reused() const {
    return num_reused_;
  }

 private:
  bool prefill(const std::vector<std::vector<std::int32_t>>& prompts, const std::function<bool()>& cancelled);
  mx::array step(const mx::array& tokens_B);
  // Hidden states [B, T, E] of `tokens_BT`, the cache's next T columns.
  mx::array forward(const mx::array& tokens_BT);
  mx::array sample(const mx::array& hidden_BTE);
  int stage() const;

  ModelView model_;
  Sampler sampler_;
  int prefill_chunk_;
  KvCache cache_;
  std::optional<mx::array> ahead_;         // int32 [B]: tokens that next() has not returned
  std::optional<mx::array> text_BT_;       // int32: all columns so far, where a later pass needs them
  std::optional<mx::array> starts_B_;      // int32: rows' first real columns, where they differ
  std::vector<std::int32_t> num_tokens_B_; // rows' lengths with the tokens generated so far
  std::int64_t num_generated_ = 0;
  std::vector<std::int32_t> known_; // a single row's text; the cache holds its first offset() tokens
  int num_reused_ = 0;
};

} // namespace temper
