#include "temper/train/trainer.h"

#include <algorithm>

#include "temper/base/clock.h"
#include "temper/base/error.h"
#include "temper/data/split_batch.h"

namespace temper {
namespace {

// Steps that the host runs ahead of what it has read: enough to keep the device busy.
constexpr std::size_t kStepsAhead = 1;

std::int64_t total_supervised(const std::vector<HostBatch>& batches) {
  std::int64_t total = 0;
  for (const auto& batch : batches) {
    total += batch.num_supervised;
  }
  return total;
}

// Tokens of the largest batch, padding included.
std::int64_t largest(const std::vector<HostBatch>& batches) {
  std::int64_t most = 0;
  for (const auto& batch : batches) {
    most = std::max(most, num_padded_tokens(batch));
  }
  return most;
}

// The first trainable tensor whose gradient was not finite.
std::string first_bad_tensor(const Params& trainable, mx::array finite) {
  mx::eval(finite);
  const bool* flags = finite.data<bool>();
  for (const auto& [name, array] : trainable) {
    if (!*flags++) {
      return name;
    }
  }
  return "the loss";
}

} // namespace

Trainer::Trainer(TrainStep& step, TrainState state, std::shared_ptr<const TokenDataset> data,
                 TrainerOptions options)
    : step_(step),
      state_(std::move(state)),
      options_(std::move(options)),
      loader_(std::move(data), options_.loader, state_.cursor),
      queue_(options_.memory_ceiling) {
}

void Trainer::add_callback(std::shared_ptr<Callback> callback) {
  callbacks_.push_back(std::move(callback));
}

void Trainer::add_sink(EventSink* sink) {
  sinks_.push_back(sink);
}

void Trainer::run() {
  for (const auto& callback : callbacks_) {
    callback->on_start(*this);
  }
  while (state_.step < options_.total_steps && stop_reason_.empty()) {
    const auto batches = next_batches();
    for (const auto& callback : callbacks_) {
      callback->before_step(*this);
    }
    take_step(batches);
    while (pending_.size() > kStepsAhead) {
      deliver();
    }
    for (const auto& callback : callbacks_) {
      callback->between_steps(*this);
    }
    for (auto* sink : sinks_) {
      sink->on_progress(state_.step);
    }
  }
  settle();
  for (const auto& callback : callbacks_) {
    callback->on_end(*this);
  }
}

std::vector<HostBatch> Trainer::next_batches() {
  const int count = options_.compat_mlx_lm ? 1 : options_.grad_accumulation_steps;
  std::vector<HostBatch> batches;
  batches.reserve(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) {
    for (auto& part : split_batch(loader_.next(), options_.loader)) {
      batches.push_back(std::move(part));
    }
  }
  return batches;
}

// One step: the gradients of its micro-batches, summed, then the update. In compat mode a step is a
// micro-batch, and every grad_accumulation_steps-th one updates.
void Trainer::take_step(const std::vector<HostBatch>& batches) {
  const auto supervised = total_supervised(batches);
  const auto count = static_cast<float>(std::max<std::int64_t>(1, supervised));
  const int shares = options_.compat_mlx_lm ? options_.grad_accumulation_steps : 1;

  queue_.begin_step(largest(batches));
  const auto sum = sum_gradients(step_, state_, queue_, batches, 1.0F / (count * static_cast<float>(shares)));
  const auto loss = sum.loss * static_cast<float>(shares);

  StepResult result;
  for (const auto& batch : batches) {
    result.num_tokens += batch.num_tokens;
    result.num_padded_tokens += num_padded_tokens(batch);
  }
  const auto updates_done = state_.step / shares;
  result.learning_rate = options_.schedule(updates_done);
  ++state_.step;
  result.step = state_.step;
  result.epoch = loader_.epoch();
  result.num_supervised = supervised;
  Pending pending{loss, sum.load_balance, std::nullopt, result};
  if (state_.step % shares == 0) {
    for (const auto& callback : callbacks_) {
      callback->on_gradients(*this, state_.accumulator);
    }
    pending.outcome = step_.update(state_, state_.accumulator, result.learning_rate);
    state_.accumulator.clear();
  }
  state_.supervised_tokens += supervised;
  state_.total_tokens += result.num_tokens;
  state_.cursor = loader_.cursor();

  auto outputs = pending.outcome ? pending.outcome->arrays : state_.accumulator.arrays();
  outputs.push_back(loss);
  if (sum.load_balance) {
    outputs.push_back(*sum.load_balance);
  }
  queue_.push(sum.midway, std::move(outputs));
  queue_.end_step();
  pending_.push_back(std::move(pending));
}

void Trainer::deliver() {
  auto pending = std::move(pending_.front());
  pending_.pop_front();
  auto result = pending.result;
  result.loss = pending.loss.item<float>();
  if (pending.load_balance) {
    result.load_balance = pending.load_balance->item<float>();
  }
  if (pending.outcome) {
    result.grad_norm = pending.outcome->grad_norm.item<float>();
    check_finite(pending, result);
  }
  for (const auto& callback : callbacks_) {
    callback->after_step(*this, result);
  }
}

void Trainer::check_finite(const Pending& pending, StepResult& result) {
  auto applied = pending.outcome->applied;
  if (applied.item<bool>()) {
    state_.skipped_in_a_row = 0;
    return;
  }
  result.skipped = true;
  if (state_.loss_scale.item<float>() > 1.0F) {
    return; // fp16 searching for its loss scale
  }
  ++state_.skipped_in_a_row;
  const auto tensor = first_bad_tensor(state_.trainable, pending.outcome->finite);
  const auto step = std::to_string(result.step);
  if (state_.skipped_in_a_row >= options_.max_skips_in_a_row) {
    throw NonFinite("step " + step + ": loss or gradient is not finite for the " +
                    std::to_string(state_.skipped_in_a_row) + ". time in a row, first in " + tensor +
                    "; lower the learning rate or look at the data; the last checkpoint stands");
  }
  emit("warning", {{"message", "step " + step + " skipped: the gradient of " + tensor + " is not finite"}});
}

void Trainer::settle() {
  queue_.flush();
  while (!pending_.empty()) {
    deliver();
  }
}

void Trainer::stop(std::string reason) {
  if (stop_reason_.empty()) {
    stop_reason_ = std::move(reason);
  }
}

void Trainer::emit(std::string type, Json data, std::int64_t step) {
  const Event event{std::move(type), wall_time(), step < 0 ? state_.step : step, std::move(data)};
  for (auto* sink : sinks_) {
    sink->on_event(event);
  }
}

void Trainer::notify_before_eval(const std::string& split) {
  for (const auto& callback : callbacks_) {
    callback->before_eval(*this, split);
  }
}

void Trainer::notify_after_eval(const EvalResult& result) {
  for (const auto& callback : callbacks_) {
    callback->after_eval(*this, result);
  }
}

void Trainer::notify_before_checkpoint() {
  for (const auto& callback : callbacks_) {
    callback->before_checkpoint(*this);
  }
}

void Trainer::notify_after_checkpoint(const std::filesystem::path& path) {
  for (const auto& callback : callbacks_) {
    callback->after_checkpoint(*this, path);
  }
}

} // namespace temper
