// Random numbers without a hidden generator: every key derives from a seed and a name or a step.
#pragma once

#include <cstdint>
#include <string_view>

#include "temper/nn/params.h"

namespace temper {

// A key, uint32 [2], that depends on `seed` and `name` only.
mx::array named_key(std::uint64_t seed, std::string_view name);

// The key of place `site` (a layer, an adapter) under `key`. Lazy.
mx::array fold_in(const mx::array& key, std::uint32_t site);

// Inverted dropout: zeroes elements with `probability`, scales the rest by 1 / (1 - probability). Lazy.
// Source: Srivastava et al. 2014, JMLR 15.
mx::array dropout(const mx::array& x, float probability, const mx::array& key);

// The same in two parts: which elements stay (bool), and x with what becomes of it. A mask depends on the
// number of elements, not on how they are shaped. Lazy.
mx::array dropout_mask(const mx::Shape& shape, float probability, const mx::array& key);
mx::array masked(const mx::array& x, const mx::array& mask, float probability);

} // namespace temper
