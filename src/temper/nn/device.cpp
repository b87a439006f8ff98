#include "temper/nn/device.h"

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <optional>
#include <string>
#include <variant>

#include <unistd.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <mlx/backend/cuda/cuda.h>
#include <mlx/backend/metal/metal.h>

#include "temper/base/error.h"
#include "temper/base/private_folder.h"
#include "temper/base/units.h"
#include "temper/nn/params.h"

namespace temper {
namespace {

double host_memory_bytes() {
  return static_cast<double>(::sysconf(_SC_PHYS_PAGES)) * static_cast<double>(::sysconf(_SC_PAGE_SIZE));
}

// One of the figures that the device tells of itself.
std::optional<std::size_t> device_figure(const std::string& key) {
  const auto& info = mx::device_info();
  const auto it = info.find(key);
  return it != info.end() && std::holds_alternative<std::size_t>(it->second)
             ? std::optional(std::get<std::size_t>(it->second))
             : std::nullopt;
}

// The device's bytes by whichever key its back end has; the host's for a CPU.
double device_memory_bytes() {
  if (mx::default_device() == mx::Device::gpu) {
    for (const char* key : {"total_memory", "memory_size"}) {
      if (const auto bytes = device_figure(key)) {
        return static_cast<double>(*bytes);
      }
    }
  }
  return host_memory_bytes();
}

// Keeps as much memory resident as Metal recommends, so that the system does not page weights out between
// steps, as mlx-lm does. Needs macOS 15; without effect elsewhere.
void wire_metal_memory() {
  if (mx::metal::is_available()) {
    if (const auto bytes = device_figure("max_recommended_working_set_size")) {
      mx::set_wired_limit(*bytes);
    }
  }
}

// Has glibc keep what is freed: MLX's CPU arrays are plain malloc, and memory that goes back to the system at
// each step must be faulted in anew.
void keep_freed_memory() {
#if defined(__GLIBC__)
  ::mallopt(M_MMAP_THRESHOLD, 32 << 20); // the most that glibc takes
  ::mallopt(M_TRIM_THRESHOLD, 1 << 30);
#endif
}

// Where MLX puts the kernels that it compiles on a CPU. Without one MLX goes on in its usual place.
std::optional<PrivateFolder> private_kernels() {
  try {
    PrivateFolder folder;
    ::setenv("TMPDIR", folder.path().c_str(), 1);
    return folder;
  } catch (const IoError&) {
    return std::nullopt;
  }
}

bool is_prepared = false;

constexpr double kWorkShare = 1.03; // of what a step needs at least: at 1.15 an H200 is 2% faster

} // namespace

MemoryUse memory_use() {
  return {gigabytes(mx::get_active_memory()), gigabytes(mx::get_peak_memory()),
          gigabytes(device_memory_bytes())};
}

std::string device_name() {
  if (mx::default_device() == mx::Device::gpu) {
    const auto& info = mx::device_info();
    const auto it = info.find("device_name");
    return it != info.end() && std::holds_alternative<std::string>(it->second)
               ? std::get<std::string>(it->second)
               : "gpu";
  }
  return "cpu";
}

void prepare_training_device(std::uint64_t cache_bytes) {
  if (!is_prepared && mx::cu::is_available()) {
    // Memory is freed a graph at a time: graphs of MLX's hundred operations hold twice as much as those of a
    // few, and those of fewer still keep the host busy, which is what a small step waits for.
    ::setenv("MLX_MAX_OPS_PER_BUFFER", "16", 0);
  }
  prepare_device(cache_bytes);
}

void prepare_device(std::uint64_t cache_bytes) {
  if (!is_prepared && mx::cu::is_available()) {
    // A GPU begins with a token when the first graph of its operations is there: with MLX's hundred a graph it
    // waits, with fewer than some twenty the host does.
    ::setenv("MLX_MAX_OPS_PER_BUFFER", "20", 0);
  }
  is_prepared = true;
  if (mx::default_device() == mx::Device::cpu) {
    // On a GPU MLX's own cache stays: to compile its kernels anew took a process 85 s on an H200.
    static const auto kKernels = private_kernels();
    // Fused element-wise kernels there cost seconds of g++ each and gain nothing over the host kernels.
    mx::set_compile_mode(mx::CompileMode::no_fuse);
    keep_freed_memory();
  } else {
    wire_metal_memory();
  }
  // On a CPU none: malloc reuses freed memory for any size, MLX's cache for nearly equal ones only, so that
  // with batches of many shapes it grows without use (bench step tiny instruct: 1.5 GB resident with it, 0.3
  // without).
  const bool is_cpu = mx::default_device() == mx::Device::cpu;
  const auto bound = is_cpu ? 0.0 : device_memory_bytes() / 4;
  mx::set_cache_limit(cache_bytes > 0 ? cache_bytes : static_cast<std::size_t>(bound));
}

std::size_t device_memory_budget() {
  if (mx::default_device() == mx::Device::cpu) {
    return 0;
  }
  return device_figure("max_recommended_working_set_size").value_or(mx::get_memory_limit());
}

WorkLimit::WorkLimit(std::size_t ceiling) : ceiling_(ceiling) {
  if (ceiling_ > 0) {
    usual_limit_ = mx::set_memory_limit(ceiling_);
  }
}

WorkLimit::~WorkLimit() {
  if (usual_limit_) {
    mx::set_memory_limit(*usual_limit_);
  }
}

bool WorkLimit::would_measure(std::int64_t num_tokens) const {
  return mx::cu::is_available() && mx::default_device() != mx::Device::cpu && num_tokens > most_tokens_;
}

void WorkLimit::before_step(std::int64_t num_tokens) {
  if (!would_measure(num_tokens)) {
    return;
  }
  most_tokens_ = num_tokens;
  measures_ = true;
  mx::synchronize();
  mx::reset_peak_memory();
  const auto limit = mx::set_memory_limit(1);
  if (!usual_limit_) {
    usual_limit_ = limit;
  }
}

void WorkLimit::after_step() {
  if (!measures_) {
    return;
  }
  measures_ = false;
  mx::synchronize();
  const auto needed = static_cast<double>(mx::get_peak_memory());
  limit_ = std::max(limit_, static_cast<std::size_t>(kWorkShare * needed));
  if (ceiling_ > 0) {
    limit_ = std::min(limit_, ceiling_);
  }
  mx::set_memory_limit(limit_);
}

void finish_device() noexcept {
  try {
    if (is_prepared) {
      mx::synchronize();
    }
  } catch (const std::exception&) {
    // What failed on the device was reported where its result was wanted.
  }
}

} // namespace temper
