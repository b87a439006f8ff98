// The best approximation of a low-rank product by one of lower rank.
// Source: Eckart and Young 1936; of a product by the triangles of its factors, so that it is never formed.
// Dims: I in_features, O out_features, R rank, K the new rank.
#pragma once

#include "temper/nn/lora.h"

namespace temper {

struct LowRank {
  LoraPair pair;           // [I, K] and [K, O]
  double squares = 0;      // of all entries of A B, summed
  double lost_squares = 0; // of A B less its approximation
};

// The product A B of rank at most `rank`, nearest in the Euclidean norm; fp32. K is min(rank, R, I, O). The
// decompositions run on the CPU. Evaluated.
LowRank lower_rank(const LoraPair& pair, int rank);

} // namespace temper
