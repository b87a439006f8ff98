// Events: the only interface to a run's progress. The trainer emits them, `events.jsonl` keeps them,
// and the terminal view, TensorBoard writer, server and dashboard read them.
// Format: docs/formats/events.md.
#pragma once

#include <cstdint>
#include <string>

#include "temper/base/json.h"

namespace temper {

struct Event {
  std::string type;           // run_started, step, eval, checkpoint, sample, warning, failed, finished
  double time = 0;            // seconds since the epoch
  std::int64_t step = 0;      // optimizer steps done
  Json data = Json::object(); // the type's own keys, e.g. loss, perplexity

  // One flat object: type, time and step first, then `data`'s keys.
  Json to_json() const;
};

class EventSink {
 public:
  virtual ~EventSink() = default;
  // Called on the trainer's thread, in order; must return quickly.
  virtual void on_event(const Event& event) = 0;
  // After every optimizer step, reported or not: what a progress bar needs between `step` events.
  virtual void on_progress(std::int64_t step) {
    (void)step;
  }
};

} // namespace temper
