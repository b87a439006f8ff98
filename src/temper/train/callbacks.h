// The run's own features as callbacks: reports, validation, checkpoints, and stopping when asked.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>

#include "temper/base/clock.h"
#include "temper/eval/perplexity.h"
#include "temper/train/callback.h"
#include "temper/train/run_folder.h"
#include "temper/train/trainer.h"

namespace temper {

// Emits a `step` event every `steps_per_report` steps and at the end: losses averaged over supervised tokens
// (compat mlx-lm: over micro-batches), speeds over the time that steps took.
class ReportCallback final : public Callback {
 public:
  explicit ReportCallback(int steps_per_report) : steps_per_report_(steps_per_report) {
  }
  void on_start(Trainer& trainer) override;
  void after_step(Trainer& trainer, const StepResult& result) override;
  void before_eval(Trainer& trainer, const std::string& split) override;
  void after_eval(Trainer& trainer, const EvalResult& result) override;
  void before_checkpoint(Trainer& trainer) override;
  void after_checkpoint(Trainer& trainer, const std::filesystem::path& path) override;
  void on_end(Trainer& trainer) override;

 private:
  void report(Trainer& trainer);
  void pause();
  void go_on();

  int steps_per_report_;
  Stopwatch watch_;
  double paused_at_ = 0;
  double paused_seconds_ = 0; // evaluations and checkpoints, within the present report
  double weighted_loss_ = 0;
  double weight_ = 0;
  int num_steps_ = 0;
  int num_skipped_ = 0; // since the run began
  std::optional<StepResult> unreported_;
  std::int64_t num_tokens_ = 0;
  std::int64_t num_padded_tokens_ = 0;
  std::int64_t supervised_tokens_ = 0; // since the run began
};

// Loss of a split with the present parameters.
using Evaluate = std::function<DatasetLoss(Trainer& trainer, EvalBatches& batches)>;

// Validation on a fixed set of batches: at the start, every `steps_per_eval` steps, after the last one.
// Goes before SavingCallback, so that checkpoints know the best so far.
class ValidationCallback final : public Callback {
 public:
  ValidationCallback(std::unique_ptr<EvalBatches> batches, int steps_per_eval, Evaluate evaluate);
  void on_start(Trainer& trainer) override;
  void before_step(Trainer& trainer) override;
  void between_steps(Trainer& trainer) override;

 private:
  void evaluate(Trainer& trainer);

  std::unique_ptr<EvalBatches> batches_;
  int steps_per_eval_;
  Evaluate evaluate_;
};

struct SavingOptions {
  int save_every = 100;     // steps
  int keep_checkpoints = 3; // newest whole checkpoints kept; 0: all
  Json details;             // kept in each checkpoint: the run's resolved config
  // Into a folder: adapter_config.json; the parameters as the file of that name.
  std::function<void(const std::filesystem::path&)> save_adapter_config;
  std::function<void(const std::filesystem::path&, const std::string&, const TrainState&)> save_adapter;
};

// Whole checkpoints and adapters every `save_every` steps and at the end, the best adapters at each new best
// validation loss. mlx-lm's names: adapters.safetensors and 0000100_adapters.safetensors.
class SavingCallback final : public Callback {
 public:
  SavingCallback(const RunFolder& folder, SavingOptions options);
  void on_start(Trainer& trainer) override;
  void between_steps(Trainer& trainer) override;
  void after_eval(Trainer& trainer, const EvalResult& result) override;
  void on_end(Trainer& trainer) override;

 private:
  void save(Trainer& trainer);
  void save_best(Trainer& trainer);
  void prune(const std::filesystem::path& newest) const;

  const RunFolder& folder_;
  SavingOptions options_;
  std::int64_t last_saved_ = -1;
};

// Ends the run when `signal` becomes non-zero.
class InterruptCallback final : public Callback {
 public:
  explicit InterruptCallback(const std::atomic<int>& signal) : signal_(signal) {
  }
  void between_steps(Trainer& trainer) override;

 private:
  const std::atomic<int>& signal_;
};

} // namespace temper
