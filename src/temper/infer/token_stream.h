// Texts continued token by token: prefill in chunks, then one step ahead of the caller, so that the device
// computes the next token while the host handles the last. Texts may join while others run.
// Dims: B rows (texts), T tokens a pass, W longest prompt, V vocabulary.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "temper/infer/model_view.h"
#include "temper/infer/prompt_cache.h"
#include "temper/infer/sampler.h"
#include "temper/infer/text_rows.h"

namespace temper {

// A text to be continued: its tokens, borrowed, and which of the run's texts it is (sampler.h's Draw).
struct NewText {
  std::span<const std::int32_t> tokens;
  std::uint64_t text = 0;
};

class TokenStream {
 public:
  // Throws ConfigError if the sampler's options are out of range. `prefill_chunk`: prompt tokens a pass.
  TokenStream(const ModelView& model, const SamplerOptions& sampling, int prefill_chunk = 512);

  // Reads the prompts, one row each, in place of all rows before; no row sees another. A single prompt that
  // begins like the text before is read from where the two part (or where the caches can go back to). Many that
  // begin alike have what they share read once. Evaluating, except for the last chunk. `cancelled` is asked
  // between chunks; when true, nothing was started and false is returned. Throws ConfigError if a prompt is
  // empty, ModelError if a token is not in the vocabulary.
  bool start(const std::vector<std::vector<std::int32_t>>& prompts,
             const std::function<bool()>& cancelled = nullptr);

  // Goes on with the rows `kept` (ascending indices) and, below them, new ones for `prompts`. As start(), but
  // after a cancellation the rows are those that they were.
  bool refill(const std::vector<std::int32_t>& kept, const std::vector<NewText>& prompts,
              const std::function<bool()>& cancelled = nullptr);

  // The next token of each row. `more`: begin to compute the ones after already; without it the rows end here.
  std::vector<std::int32_t> next(bool more);

  // Goes on with these rows (ascending indices) alone.
  void keep_rows(const std::vector<std::int32_t>& rows);

  // Changes how the next start()'s texts are sampled, and read.
  void set_sampling(const SamplerOptions& sampling, int prefill_chunk);
  // Forgets the text before.
  void reset();

  // Prompt tokens of the last start() or refill() that it did not have to read.
  int num_reused() const {
    return num_reused_;
  }

  // What the caches hold of a single row's first `length` tokens, so that a text that goes on from there can
  // take it up: somewhat less where they can't be cut back, nothing where the text's angles have turned since.
  PromptCache cached(int length) const;
  // As if `cached`'s tokens had been read.
  void adopt(PromptCache cached);

 private:
  using Cancelled = std::function<bool()>;

  int take_up(std::span<const std::int32_t> prompt);
  std::optional<TextRows> prefill(const std::vector<NewText>& prompts, KvCache cache, bool marks,
                                  const Cancelled& cancelled);
  int num_shared(const std::vector<NewText>& prompts) const;
  KvCache read_shared(const std::vector<NewText>& prompts, int shared);
  void read_prefix(int length);
  bool read(TextRows& rows, const mx::array& text_BW, bool marks, const Cancelled& cancelled);
  // Hidden states [B, T, E] of `tokens_BT`, the cache's next T columns.
  mx::array forward(TextRows& rows, const mx::array& tokens_BT);
  mx::array sample(const TextRows& rows, const mx::array& hidden_BTE) const;
  mx::array step(const mx::array& tokens_B);

  ModelView model_;
  Sampler sampler_;
  int prefill_chunk_;
  bool can_cut_;  // the caches can go back to any earlier token
  TextRows rows_; // those that run
  std::vector<std::int32_t> known_;
  TextRows prefix_; // one row: what the last prompts shared
  std::vector<std::int32_t> prefix_tokens_;
  int num_reused_ = 0;
};

} // namespace temper
