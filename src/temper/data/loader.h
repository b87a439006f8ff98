// Batches from a tokenized split: shuffled, length-bucketed, packed, prefetched; resumable to the batch.
// The order depends on (seed, epoch) alone, never on threads or on packing: the same examples make step n
// packed or not. A pass is shuffled, cut into windows of some batches, sorted by length within each window
// and cut into batches, which are shuffled in turn: lengths in a batch are alike, its company changes.
// A pass's smaller batch, if batch_size does not divide the examples, comes last.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "temper/base/json.h"
#include "temper/data/batch.h"
#include "temper/data/mlx_lm_random.h"
#include "temper/data/token_dataset.h"

namespace temper {

struct LoaderOptions {
  int batch_size = 4;            // examples a batch
  std::int64_t batch_tokens = 0; // > 0: instead of batch_size, as many examples as fit this budget
  int max_seq_length = 2048;     // tokens of one example; longer ones were truncated or dropped before
  // A step's batch of more columns is split (split_batch.h); 0: never. The loader hands it out whole.
  std::int64_t micro_batch_tokens = 0;
  bool packing = true;      // several documents a row, first-fit-decreasing
  int pack_width = 0;       // inputs of a packed row; 0: max_seq_length rounded up to width_multiple
  int width_multiple = 128; // row widths are multiples of this
  bool few_shapes = false;  // packed: layout_in_few_shapes(), where a new shape costs seconds of compiling
  bool shuffle = true;
  bool drop_last = false;     // leave out an epoch's last, smaller batch (unless it is the only one)
  bool compat_mlx_lm = false; // mlx-lm's order (numpy's generator), widths, padding and target mask
  std::uint64_t seed = 0;
  int prefetch = 4; // batches made ahead by a thread of the loader's own; 0 or compat: in next() itself
  // Compat only: the generator that mlx-lm's training and evaluation share. null: one of the loader's own,
  // from `seed`, which is mlx-lm without evaluations.
  std::shared_ptr<MlxLmRandom> mlx_lm_random{};
};

// Where a loader stands: enough to go on with the very next batch. Part of the training state.
struct DataCursor {
  std::uint64_t epoch = 0; // passes completed
  std::uint64_t batch = 0; // batches taken in this pass
  std::int64_t draw = -1;  // compat only: the shared generator's draw that ordered this pass; -1: none yet
  Json to_json() const;
  static DataCursor from_json(const Json& json); // throws CheckpointError
};

class BatchLoader {
 public:
  // Throws DataError if the data set is empty, has an example of fewer than 2 tokens or more than
  // max_seq_length (compat truncates these, as mlx-lm does), or if compat_mlx_lm and it is smaller than a
  // batch; CheckpointError if `start` lies beyond the data.
  BatchLoader(std::shared_ptr<const TokenDataset> data, LoaderOptions options, DataCursor start = {});
  ~BatchLoader();

  // The next batch; passes follow one another without end.
  HostBatch next();
  // After the batches that next() has returned, whatever is prefetched.
  DataCursor cursor() const;
  // Batches a pass of epoch 0 (with batch_tokens later passes may differ by a few).
  std::uint64_t batches_per_epoch() const;
  // Passes done, with the fraction of the current one.
  double epoch() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// A fixed list of batches for evaluation: the same for every call, in the data's order, each example once.
// `num_batches` < 0: all of them. In compat mode only whole batches count, and each evaluation starts with
// draw(), which orders them anew as mlx-lm does: with num_batches >= 0 it evaluates other examples each time.
class EvalBatches {
 public:
  // Throws as BatchLoader does.
  EvalBatches(std::shared_ptr<const TokenDataset> data, LoaderOptions options, int num_batches);
  ~EvalBatches();
  std::size_t size() const;
  HostBatch operator[](std::size_t index) const;
  // The batch as micro_batch_tokens splits it.
  std::vector<HostBatch> parts(std::size_t index) const;
  // Compat only, no effect otherwise: draws the order of this evaluation's batches from options.mlx_lm_random.
  void draw();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

} // namespace temper
