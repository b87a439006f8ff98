// Arrays that wait in host memory, outside of MLX's allocator, between two places of a graph. On CUDA that
// memory is pinned and a kernel moves the bytes either way, so that copies run beside other work of the stream.
// (MLX's own way, an operation of the CPU's stream, leaves the array in managed memory: docs/decisions/0016.)
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <utility>

#include "temper/nn/params.h"
#include "temper/nn/recompute.h"

namespace temper {

class HostStore {
 public:
  // For the device that MLX computes on: null where its memory is the host's, so that nothing is to be gained.
  // Throws ModelError where a CUDA driver does not offer pinned memory.
  static std::shared_ptr<HostStore> for_device();

  // On a CPU: the same graphs over plain memory, for tests.
  HostStore() = default;
  ~HostStore();
  HostStore(const HostStore&) = delete;
  HostStore& operator=(const HostStore&) = delete;

  // Copies x to the memory of (slot, its size) -> an array that says so, which get() wants. Lazy. A slot holds
  // one array at a time: whatever reads the last must be evaluated before the next is put. x's last axis takes
  // a multiple of 16 bytes. Throws OutOfMemory where there is no more host memory.
  mx::array put(int slot, const mx::array& x);
  // What was put, in `like`'s shape and dtype. Lazy.
  mx::array get(int slot, const mx::array& is_there, const mx::Shape& shape, mx::Dtype dtype);

  // Whether put() takes x.
  static bool takes(const mx::array& x);

  // Host memory in use.
  std::size_t num_bytes() const;

 private:
  void* memory(int slot, std::size_t bytes);

  bool pinned_ = false;
  std::map<std::pair<int, std::size_t>, void*> memory_;
};

// recomputed(), whose first input waits in `store` for the backward pass. `store` outlives the graph.
ArrayFunction recomputed_from_host(const ArrayFunction& f, HostStore& store, int slot);

} // namespace temper
