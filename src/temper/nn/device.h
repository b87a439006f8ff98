// The device that MLX computes on, and its memory.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace temper {

struct MemoryUse {
  double active_gb = 0; // 1e9 bytes, MLX's allocator now
  double peak_gb = 0;   // since the start, or since reset_peak_memory()
  double total_gb = 0;  // what the device has
};

MemoryUse memory_use();

// "cpu" or the GPU's own name.
std::string device_name();

// What the device itself would have a process use, in bytes: a Metal GPU's recommended working set, what MLX
// takes of a CUDA GPU before it waits; 0 on a CPU.
std::size_t device_memory_budget();

// Before the first MLX call: gives the kernels that MLX compiles at run time on a CPU a private folder of
// this process (MLX's own, shared between processes, is neither locked nor checked for its owner), and
// bounds the allocator's cache to `cache_bytes` (0: a quarter of a GPU's memory, nothing on a CPU). Safe to
// call twice.
void prepare_device(std::uint64_t cache_bytes = 0);

// The same for a process that trains: on CUDA, MLX's graphs are short, so that less memory is in flight.
// Generating has little in flight, and waits for the host, which long graphs help.
void prepare_training_device(std::uint64_t cache_bytes = 0);

// What work in flight holds, bounded for steps that repeat. MLX's host runs ahead of a GPU, and all that the
// work handed over reads and writes stays allocated until it is done: half of a step's peak. So the first step
// of a size runs an operation at a time, which tells what it needs at least, and from then on the host waits
// where more than little above that is in use. A step that is measured resets MLX's peak. CUDA alone.
class WorkLimit {
 public:
  // More than `ceiling` bytes are never waited with, on any device; 0: no such bound.
  explicit WorkLimit(std::size_t ceiling = 0);
  // MLX's own limit again.
  ~WorkLimit();
  WorkLimit(const WorkLimit&) = delete;
  WorkLimit& operator=(const WorkLimit&) = delete;

  // Around the evaluation of a step over `num_tokens`, padding included.
  void before_step(std::int64_t num_tokens);
  void after_step();
  // Whether before_step() begins a measurement, for which nothing may be in flight or waiting to be evaluated.
  bool would_measure(std::int64_t num_tokens) const;
  // Whether the present step is measured.
  bool measures() const {
    return measures_;
  }

 private:
  std::int64_t most_tokens_ = 0;
  bool measures_ = false;
  std::size_t limit_ = 0;
  std::size_t ceiling_ = 0;
  std::optional<std::size_t> usual_limit_; // MLX's, once it was changed
};

// Before the process ends: waits for work that is still in flight. MLX's CPU thread would otherwise go on while
// the process's statics are destroyed under it, which corrupts the heap. Nothing without prepare_device().
void finish_device() noexcept;

} // namespace temper
