// Everything that a run needs to go on, in one value. Checkpoints hold all of it (checkpoint.h).
#pragma once

#include <cstdint>
#include <limits>

#include "temper/base/json.h"
#include "temper/data/loader.h"
#include "temper/nn/params.h"
#include "temper/train/param_pack.h"

namespace temper {

struct TrainState {
  // On the device
  PackedParams trainable;   // LoRA factors, or for full fine-tuning the master weights; fp32
  PackedParams optimizer;   // moments, by Optimizer's names
  PackedParams accumulator; // gradient sums of an optimizer step under way; empty between steps
  Params start;             // PiSSA: the factors that the base weights miss (trainable.h); never changes
  mx::array count = mx::array(0, mx::int32);      // optimizer steps applied: skipped ones do not count
  mx::array loss_scale = mx::array(1.0F);         // fp16's dynamic scale; 1 otherwise
  mx::array good_steps = mx::array(0, mx::int32); // since the loss scale last changed

  // On the host
  std::int64_t step = 0;              // optimizer steps taken, skipped ones included: places the schedule
  std::int64_t micro_step = 0;        // micro-batches taken: places the dropout keys
  std::int64_t supervised_tokens = 0; // trained on so far
  std::int64_t total_tokens = 0;      // real tokens read so far
  std::uint64_t seed = 0;             // every random key derives from it
  DataCursor cursor;                  // the next batch
  int skipped_in_a_row = 0;           // non-finite steps
  double best_loss = std::numeric_limits<double>::infinity(); // best validation loss
  std::int64_t best_step = -1;
  Json mlx_lm_random = nullptr; // compat mlx-lm: the generator that orders batches

  // The host's part; from_json() leaves the arrays as they are. Throws CheckpointError.
  Json host_json() const;
  void restore_host(const Json& json);
};

} // namespace temper
