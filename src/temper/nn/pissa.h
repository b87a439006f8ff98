// PiSSA: LoRA factors that start as a weight's principal part, over a base that keeps the rest.
// Sources: Meng et al. 2024, arXiv:2404.02948, section 3; the randomized decomposition: Halko et al. 2009,
// arXiv:0909.4061, algorithms 4.4 and 5.1.
// Dims: I in_features, O out_features, R rank.
#pragma once

#include <optional>

#include "temper/nn/lora.h"

namespace temper {

// A = V sqrt(S / scale) and B = sqrt(S / scale) U^T of the R largest singular values S of W [O, I] = U S V^T,
// fp32, so that scale (A B)^T is W's best approximation of that rank. `iterations`: by that many power
// iterations from a random start drawn with `key`; none: exactly. The decomposition runs on the CPU.
// Evaluated. Throws ConfigError if W has less than R singular values.
LoraPair pissa_factors(const mx::array& weight, int rank, float scale, std::optional<int> iterations,
                       const mx::array& key);

} // namespace temper
