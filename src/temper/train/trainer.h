// The training loop: batches in, steps out, callbacks between. What a run does beside its steps (reports,
// evaluations, checkpoints) are callbacks (callbacks.h); what is around it is run.h.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "temper/base/event.h"
#include "temper/data/loader.h"
#include "temper/nn/device.h"
#include "temper/optim/schedule.h"
#include "temper/train/callback.h"
#include "temper/train/step.h"
#include "temper/train/step_queue.h"

namespace temper {

struct TrainerOptions {
  std::int64_t total_steps = 1000;
  int grad_accumulation_steps = 1; // micro-batches a step
  bool compat_mlx_lm = false;      // a step is one micro-batch; losses and gradients are micro-batch means
  Schedule schedule;               // learning rate by optimizer steps done
  LoaderOptions loader;
  int max_skips_in_a_row = 3;     // non-finite steps that end the run
  std::size_t memory_ceiling = 0; // WorkLimit's
};

class Trainer {
 public:
  // `step` and `data` must outlive the trainer; `state` is fresh or restored.
  Trainer(TrainStep& step, TrainState state, std::shared_ptr<const TokenDataset> data, TrainerOptions options);

  void add_callback(std::shared_ptr<Callback> callback);
  void add_sink(EventSink* sink); // must outlive the trainer

  // Steps until the total is reached or stop() is called. Throws NonFinite naming the first bad tensor when
  // too many steps in a row were not finite; whatever callbacks throw.
  void run();

  // Waits for the device and delivers the results of all steps under way.
  void settle();
  // Ends the run after the present step; the first reason stays.
  void stop(std::string reason);
  // To every sink, stamped with the time and the steps done (or `step`, where a report is of an earlier one).
  void emit(std::string type, Json data, std::int64_t step = -1);

  // For callbacks that evaluate or save: tell the others.
  void notify_before_eval(const std::string& split);
  void notify_after_eval(const EvalResult& result);
  void notify_before_checkpoint();
  void notify_after_checkpoint(const std::filesystem::path& path);

  TrainState& state() {
    return state_;
  }
  const TrainerOptions& options() const {
    return options_;
  }
  // Passes over the data, as far as the batches taken go.
  double epoch() const {
    return loader_.epoch();
  }
  std::uint64_t batches_per_epoch() const {
    return loader_.batches_per_epoch();
  }
  const std::string& stop_reason() const {
    return stop_reason_;
  }

 private:
  // A step that the device works on.
  struct Pending {
    mx::array loss;
    std::optional<mx::array> load_balance; // the last micro-batch's
    std::optional<StepOutcome> outcome;    // none: a micro-batch that only accumulates
    StepResult result;
  };

  std::vector<HostBatch> next_batches();
  void take_step(const std::vector<HostBatch>& batches);
  void deliver();
  void check_finite(const Pending& pending, StepResult& result);

  TrainStep& step_;
  TrainState state_;
  TrainerOptions options_;
  BatchLoader loader_;
  std::vector<std::shared_ptr<Callback>> callbacks_;
  std::vector<EventSink*> sinks_;
  std::deque<Pending> pending_;
  std::string stop_reason_;
  StepQueue queue_;
};

} // namespace temper
