// A batch as several smaller ones, where its step would take more memory than there is.
// Dims: B rows, T row width.
#pragma once

#include <cstdint>
#include <vector>

#include "temper/data/batch.h"
#include "temper/data/loader.h"

namespace temper {

// `batch` in parts of at most options.micro_batch_tokens columns (B T), or as wide as one document takes if
// that is more. Each document is in one part, so with weights by the whole batch's count the parts' losses and
// gradients add up to the batch's. Packed rows are packed anew, all parts in one shape; else parts are of rows
// alike in length. The batch itself where it fits, where there is no bound, and under compat_mlx_lm.
std::vector<HostBatch> split_batch(HostBatch batch, const LoaderOptions& options);

// A bound for micro_batch_tokens that costs no time worth mentioning on a GPU, where memory follows the largest
// step and speed the usual ones: a quarter above the usual step, but no less than keeps a large GPU busy, and
// no more than it gains by. 0, no bound, under compat_mlx_lm.
std::int64_t usual_micro_batch_tokens(const TokenDataset& data, const LoaderOptions& options);

} // namespace temper
