// Examples into one host batch.
#pragma once

#include <cstdint>
#include <span>

#include "temper/data/batch.h"
#include "temper/data/loader.h"
#include "temper/data/token_dataset.h"

namespace temper {

// The batch of `examples` (indices of `data`), padded or packed as `options` say.
HostBatch collate(const TokenDataset& data, std::span<const std::uint32_t> examples,
                  const LoaderOptions& options);

// mlx-lm's batch: a row an example, cut at max_seq_length; 1 + the next multiple of 32 tokens wide, at most
// max_seq_length; the target after a supervised row's last token, a padding 0, counts too. A row is one
// document, padding included. Source: mlx-lm 0.32.2, tuner/trainer.py, iterate_batches and default_loss.
HostBatch collate_mlx_lm(const TokenDataset& data, std::span<const std::uint32_t> examples,
                         const LoaderOptions& options);

// A batch of padding alone.
HostBatch blank_batch(int rows, int width);

// Adds `document`: its segment and positions.
void place_document(HostBatch& batch, const Document& document);

} // namespace temper
