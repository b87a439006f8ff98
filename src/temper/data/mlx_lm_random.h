// The order of mlx-lm's batches: numpy's legacy generator, which mlx-lm seeds once and then shares between
// training and evaluation. A pass over the training data draws one permutation of its batches when it starts,
// each evaluation draws one of the validation batches; so the order of a later pass depends on how many
// evaluations came before. mlx-lm takes a step's batch first and evaluates then, before the step: whoever
// wants its order calls BatchLoader::next(), EvalBatches::draw(), step. `compat: mlx-lm` only.
// Source: numpy.random.RandomState (seed, permutation); Matsumoto and Nishimura 1998 (MT19937).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "temper/base/json.h"

namespace temper {

// numpy's RandomState: seed(seed), then permutation(n) bit for bit.
class NumpyRandom {
 public:
  explicit NumpyRandom(std::uint32_t seed);
  std::uint32_t next();
  std::vector<std::uint32_t> permutation(std::uint32_t n);

 private:
  void refill();
  std::uint32_t at_most(std::uint32_t limit);

  std::array<std::uint32_t, 624> state_;
  std::size_t position_ = 624;
};

// The generator that a run shares, with the memory of what it drew: that is its whole state, and how a
// resumed pass finds its order again. Used from one thread.
class MlxLmRandom {
 public:
  // Throws ConfigError if the seed does not fit numpy's 32 bits.
  explicit MlxLmRandom(std::uint64_t seed);

  std::vector<std::uint32_t> permutation(std::uint32_t n);
  std::size_t num_draws() const {
    return drawn_.size();
  }
  // The permutation of draw `index` (counted from 0) once more. Throws CheckpointError if it never was.
  std::vector<std::uint32_t> replay(std::size_t index) const;

  Json to_json() const;
  static MlxLmRandom from_json(const Json& json); // throws CheckpointError

 private:
  std::uint32_t seed_;
  NumpyRandom random_;
  std::vector<std::uint32_t> drawn_; // sizes, in order
};

} // namespace temper
