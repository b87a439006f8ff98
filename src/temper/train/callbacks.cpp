#include "temper/train/callbacks.h"

#include <algorithm>
#include <utility>

#include "temper/base/files.h"
#include "temper/io/adapters.h"
#include "temper/nn/device.h"
#include "temper/train/checkpoint.h"

namespace temper {

namespace fs = std::filesystem;

// ---- Reports

void ReportCallback::on_start(Trainer& trainer) {
  supervised_tokens_ = trainer.state().supervised_tokens;
  watch_.restart();
}

void ReportCallback::after_step(Trainer& trainer, const StepResult& result) {
  const double weight = trainer.options().compat_mlx_lm ? 1.0 : static_cast<double>(result.num_supervised);
  if (result.skipped) {
    ++num_skipped_;
  } else {
    weighted_loss_ += result.loss * weight;
    weight_ += weight;
  }
  ++num_steps_;
  num_tokens_ += result.num_tokens;
  num_padded_tokens_ += result.num_padded_tokens;
  supervised_tokens_ += result.num_supervised;
  unreported_ = result;
  if (result.step % steps_per_report_ == 0 || result.step == trainer.options().total_steps) {
    report(trainer);
  }
}

void ReportCallback::on_end(Trainer& trainer) {
  if (unreported_) { // the run was stopped between reports
    report(trainer);
  }
}

void ReportCallback::report(Trainer& trainer) {
  const auto last = *unreported_;
  const double seconds = watch_.seconds() - paused_seconds_;
  const auto memory = memory_use();
  Json data{{"loss", weight_ > 0 ? Json(weighted_loss_ / weight_) : Json(nullptr)},
            {"learning_rate", last.learning_rate},
            {"grad_norm", last.grad_norm},
            {"tokens", supervised_tokens_},
            {"tokens_per_second", static_cast<double>(num_tokens_) / seconds},
            {"padded_tokens_per_second", static_cast<double>(num_padded_tokens_) / seconds},
            {"iterations_per_second", num_steps_ / seconds},
            {"epoch", last.epoch},
            {"memory_gb", memory.active_gb},
            {"peak_memory_gb", memory.peak_gb},
            {"total_memory_gb", memory.total_gb},
            {"skipped", num_skipped_}};
  if (last.load_balance) {
    data["load_balance"] = *last.load_balance;
  }
  trainer.emit("step", std::move(data), last.step);
  ReportCallback fresh(steps_per_report_);
  fresh.supervised_tokens_ = supervised_tokens_;
  fresh.num_skipped_ = num_skipped_;
  *this = std::move(fresh);
}

void ReportCallback::pause() {
  paused_at_ = watch_.seconds();
}

void ReportCallback::go_on() {
  paused_seconds_ += watch_.seconds() - paused_at_;
}

void ReportCallback::before_eval(Trainer&, const std::string&) {
  pause();
}

void ReportCallback::after_eval(Trainer&, const EvalResult&) {
  go_on();
}

void ReportCallback::before_checkpoint(Trainer&) {
  pause();
}

void ReportCallback::after_checkpoint(Trainer&, const fs::path&) {
  go_on();
}

// ---- Validation

ValidationCallback::ValidationCallback(std::unique_ptr<EvalBatches> batches, int steps_per_eval,
                                       Evaluate evaluate)
    : batches_(std::move(batches)), steps_per_eval_(steps_per_eval), evaluate_(std::move(evaluate)) {
}

void ValidationCallback::on_start(Trainer& trainer) {
  if (!trainer.options().compat_mlx_lm && trainer.state().step == 0) { // a resumed run was evaluated before
    evaluate(trainer);
  }
}

// mlx-lm evaluates before the first, every N-th and the last iteration, when the batch is drawn already.
void ValidationCallback::before_step(Trainer& trainer) {
  const auto iteration = trainer.state().step + 1;
  if (trainer.options().compat_mlx_lm &&
      (iteration == 1 || iteration % steps_per_eval_ == 0 || iteration == trainer.options().total_steps)) {
    evaluate(trainer);
  }
}

void ValidationCallback::between_steps(Trainer& trainer) {
  const auto step = trainer.state().step;
  const bool due = step % steps_per_eval_ == 0 || step == trainer.options().total_steps;
  if (!trainer.options().compat_mlx_lm && due) {
    evaluate(trainer);
  }
}

void ValidationCallback::evaluate(Trainer& trainer) {
  trainer.settle();
  trainer.notify_before_eval("valid");
  const Stopwatch watch;
  batches_->draw();
  const auto measured = evaluate_(trainer, *batches_);
  auto& state = trainer.state();
  EvalResult result{"valid", measured.loss, measured.perplexity(), measured.tokens, watch.seconds()};
  if (result.loss < state.best_loss) {
    result.best = true;
    state.best_loss = result.loss;
    state.best_step = state.step;
  }
  trainer.emit("eval", {{"split", result.split},
                        {"loss", result.loss},
                        {"perplexity", result.perplexity},
                        {"tokens", result.tokens},
                        {"seconds", result.seconds},
                        {"best", result.best}});
  trainer.notify_after_eval(result);
}

// ---- Saving

SavingCallback::SavingCallback(const RunFolder& folder, SavingOptions options)
    : folder_(folder), options_(std::move(options)) {
}

void SavingCallback::on_start(Trainer& trainer) {
  last_saved_ = trainer.state().step;
}

void SavingCallback::between_steps(Trainer& trainer) {
  if (trainer.state().step % options_.save_every == 0) {
    save(trainer);
  }
}

void SavingCallback::on_end(Trainer& trainer) {
  if (trainer.state().step != last_saved_) {
    save(trainer);
  }
}

void SavingCallback::after_eval(Trainer& trainer, const EvalResult& result) {
  if (result.best && result.split == "valid" && trainer.state().step > 0) {
    save_best(trainer);
  }
}

void SavingCallback::save(Trainer& trainer) {
  trainer.settle();
  trainer.notify_before_checkpoint();
  auto& state = trainer.state();
  if (const auto& random = trainer.options().loader.mlx_lm_random) {
    state.mlx_lm_random = random->to_json();
  }
  const auto name = checkpoint_name(state.step);
  const auto path = folder_.checkpoints() / name;
  options_.save_adapter_config(folder_.path());
  options_.save_adapter(folder_.path(), name + "_adapters.safetensors", state);
  options_.save_adapter(folder_.path(), "adapters.safetensors", state);
  save_checkpoint(path, state, options_.details);
  last_saved_ = state.step;
  prune(path);
  trainer.emit("checkpoint", {{"path", path.string()}, {"kind", "periodic"}});
  trainer.notify_after_checkpoint(path);
}

void SavingCallback::save_best(Trainer& trainer) {
  trainer.notify_before_checkpoint();
  const auto path = folder_.checkpoints() / "best";
  make_directories(path);
  options_.save_adapter_config(path);
  options_.save_adapter(path, "adapters.safetensors", trainer.state());
  trainer.emit("checkpoint", {{"path", path.string()}, {"kind", "best"}});
  trainer.notify_after_checkpoint(path);
}

void SavingCallback::prune(const fs::path& newest) const {
  const auto found = list_checkpoints(folder_.checkpoints());
  const auto remove = [&](const fs::path& checkpoint) {
    std::error_code ignored; // an old checkpoint that stays does no harm
    // state.json first: without it the rest no longer counts as a checkpoint.
    fs::remove(checkpoint / "state.json", ignored);
    fs::remove_all(checkpoint, ignored);
    fs::remove(folder_.path() / (checkpoint.filename().string() + "_adapters.safetensors"), ignored);
  };
  // Steps yet to be taken: left from before the run was set back to an earlier checkpoint.
  const auto end = std::upper_bound(found.begin(), found.end(), newest);
  std::for_each(end, found.end(), remove);
  if (options_.keep_checkpoints > 0) {
    const auto count = end - found.begin();
    std::for_each(found.begin(), end - std::min<std::ptrdiff_t>(count, options_.keep_checkpoints), remove);
  }
}

// ---- Interrupts

void InterruptCallback::between_steps(Trainer& trainer) {
  if (signal_.load() != 0) {
    trainer.stop("interrupted");
  }
}

} // namespace temper
