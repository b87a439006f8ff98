// Loss over a data set: the sum over its supervised tokens divided by their count, whatever the batches.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "temper/data/loader.h"
#include "temper/infer/batch_input.h"
#include "temper/infer/model_view.h"

namespace temper {

struct LossOptions {
  int chunk = 0;                              // rows of logits alive at once; 0: chosen from the vocabulary
  std::optional<PackedAttention> attention{}; // none: the fastest for the model and device
  // Asked after each batch, with the batches done and all of them; false ends early.
  std::function<bool(std::size_t done, std::size_t total)> on_batch{};
};

struct DatasetLoss {
  double loss = 0; // mean over `tokens`, natural logarithm; NaN if there is none
  std::int64_t tokens = 0;
  std::size_t batches = 0;

  double perplexity() const; // exp(loss)
};

// Evaluating, in memory that does not grow with the data set. Throws DataError if no token is supervised.
DatasetLoss evaluate_loss(const ModelView& model, const EvalBatches& batches, const LossOptions& options = {});

} // namespace temper
