// A whole run: configuration in, a run folder out. What `temper train` does, for programs too.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "temper/base/event.h"
#include "temper/config/run_config.h"
#include "temper/train/callback.h"

namespace temper {

struct RunHooks {
  std::vector<EventSink*> sinks;                    // beside events.jsonl
  std::vector<std::shared_ptr<Callback>> callbacks; // after the run's own
  const std::atomic<int>* interrupt = nullptr;      // non-zero: save and end
};

struct RunResult {
  std::string reason; // completed, interrupted, or what a callback gave to Trainer::stop()
  std::string run_dir;
  std::int64_t steps = 0;
  Json summary; // the `finished` event's keys
};

// Checks the model's config, tokenizer and data before it reads weights, and makes the folder only then.
// Resumes `config.resume` if set. Throws the errors of base/error.h; a `failed` event records those that
// come once the folder is there.
RunResult run_training(const RunConfig& config, const RunHooks& hooks = {});

// The configuration that a run folder (or one of its checkpoints) was started with, with `resume` set to it:
// what --resume starts from. Throws CheckpointError.
RunConfig resumed_config(const std::string& path);

} // namespace temper
