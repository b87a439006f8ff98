// From logits to the next token.
// Sources: top-p, Holtzman et al. 2019, arXiv:1904.09751; top-k, Fan et al. 2018, arXiv:1805.04833; min-p,
// Nguyen et al. 2024, arXiv:2407.01082; repetition penalty, Keskar et al. 2019, arXiv:1909.05858. As in
// mlx-lm (sample_utils.py) the filters look at the probabilities at temperature 1, and the temperature
// shapes what is left.
// Dims: B rows, V vocabulary, R recent tokens.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "temper/nn/params.h"

namespace temper {

struct SamplerOptions {
  float temperature = 0.0F;        // 0: the likeliest token, whatever the filters say
  float top_p = 1.0F;              // the likeliest tokens that hold this much probability; 0 or 1: all
  int top_k = 0;                   // this many of the likeliest tokens; 0: all
  float min_p = 0.0F;              // tokens at least this likely, relative to the likeliest; 0: all
  float repetition_penalty = 0.0F; // > 1 makes recent tokens unlikelier; 0 or 1: off
  int repetition_context = 20;     // tokens, the prompt's included, that count as recent
  std::uint64_t seed = 0;
};

// Throws ConfigError naming the option that is out of range.
void validate(const SamplerOptions& options);

// Whether sampling reads the recent tokens.
bool has_repetition_penalty(const SamplerOptions& options);

// Divides the positive and multiplies the negative logits of `recent_BR` (int32) by the penalty. Lazy.
mx::array penalize_repetition(const mx::array& logits_BV, const mx::array& recent_BR, float penalty);

// Log-probabilities, fp32 [B, V], -inf where top-p, top-k or min-p exclude a token; the likeliest token is
// never excluded. Lazy.
mx::array filter_tokens(const SamplerOptions& options, const mx::array& logits_BV);

// Which number of a text's own a token is drawn with: no generator is kept, and what is drawn does not depend
// on the texts beside it.
struct Draw {
  std::uint64_t text = 0;     // the prompt's place among those of the run
  std::uint64_t position = 0; // tokens generated before it
};

class Sampler {
 public:
  // Throws ConfigError as validate() does.
  explicit Sampler(const SamplerOptions& options);

  // The next tokens, int32 [B], one draw a row. `recent_BR`: int32, the newest tokens, wanted with a repetition
  // penalty. Lazy.
  mx::array sample(const mx::array& logits_BV, const std::optional<mx::array>& recent_BR,
                   std::span<const Draw> draws) const;

  const SamplerOptions& options() const {
    return options_;
  }

 private:
  SamplerOptions options_;
};

} // namespace temper
