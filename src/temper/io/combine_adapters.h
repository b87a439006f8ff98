// Several adapters of one model as one, and an adapter at another rank.
// Sources: the sum of two low-rank updates is their factors side by side; ranks by nn/low_rank.h.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "temper/io/adapters.h"

namespace temper {

struct WeightedAdapter {
  Adapter adapter;
  float weight = 1.0F;
  std::string name; // for messages
};

// The adapter whose update is the weighted sum of theirs, exactly: a layer's rank is the sum of its ranks. What
// was trained whole is averaged, where all have it and the weights add up to 1. One adapter of weight 1 is left
// as it is. Lazy. Throws ConfigError for DoRA (whose magnitudes divide by the sum's norm), full fine-tuning,
// and whole tensors that cannot be averaged.
Adapter combine_adapters(const std::vector<WeightedAdapter>& parts, const DecoderSpec& spec);

// Each layer's update at rank `rank` at most. Evaluated. Returns the Euclidean norm of what is lost over that
// of all updates, scales included. `progress` is called before each layer and may throw.
double lower_ranks(
    Adapter& adapter, const DecoderSpec& spec, int rank, const std::function<void()>& progress = [] {});

// The same adapter with one rank and one scale for all layers, as mlx-lm has it: factors widened by zeros, B
// carrying the scale. Lazy.
Adapter uniform_adapter(const Adapter& adapter);

} // namespace temper
