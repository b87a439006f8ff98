// What may look into a run, change it, or end it. The trainer's own reports, evaluations and checkpoints are
// callbacks too (train/callbacks.h).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "temper/train/param_pack.h"

namespace temper {

class Trainer;

// An optimizer step (compat mlx-lm: a micro-batch) as the host reads it, one step behind the device.
struct StepResult {
  std::int64_t step = 0; // steps done, this one included
  double loss = 0;       // mean over the step's supervised tokens
  double grad_norm = 0;  // before clipping
  double learning_rate = 0;
  std::optional<double> load_balance; // of a mixture of experts (nn/moe.h): 1 is balanced
  double epoch = 0;                   // passes over the data, this step's batches included
  bool skipped = false;               // not finite: nothing changed
  std::int64_t num_tokens = 0;        // real
  std::int64_t num_padded_tokens = 0; // columns of the batch, padding included
  std::int64_t num_supervised = 0;
};

struct EvalResult {
  std::string split; // valid, test
  double loss = 0;
  double perplexity = 0;
  std::int64_t tokens = 0; // supervised
  double seconds = 0;
  bool best = false; // the lowest validation loss so far
};

// Called on the trainer's thread. Any of them may call Trainer::stop().
class Callback {
 public:
  virtual ~Callback() = default;
  virtual void on_start(Trainer&) {
  }
  // The step's batches are at hand, the device still works on the step before.
  virtual void before_step(Trainer&) {
  }
  // The sum of the step's gradients, lazily: replace arrays to change the update.
  virtual void on_gradients(Trainer&, PackedParams&) {
  }
  // The step is under way on the device. settle() waits for it where results are needed.
  virtual void between_steps(Trainer&) {
  }
  // The host has read the step's results.
  virtual void after_step(Trainer&, const StepResult&) {
  }
  virtual void before_eval(Trainer&, const std::string&) {
  }
  virtual void after_eval(Trainer&, const EvalResult&) {
  }
  virtual void before_checkpoint(Trainer&) {
  }
  virtual void after_checkpoint(Trainer&, const std::filesystem::path&) {
  }
  virtual void on_end(Trainer&) {
  }
};

} // namespace temper
