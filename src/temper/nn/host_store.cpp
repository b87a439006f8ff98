#include "temper/nn/host_store.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <string>

#include <dlfcn.h>

#include <mlx/backend/cuda/cuda.h>
#include <mlx/fast.h>

#include "temper/base/error.h"
#include "temper/nn/host_op.h"

namespace temper {
namespace {

constexpr std::size_t kVectorBytes = 16;
constexpr int kThreads = 256;
constexpr int kBlocks = 64; // a bus's worth of loads in flight, and the rest of the GPU free for other work

// ---- Pinned memory, from the driver, which is there wherever MLX runs on CUDA

constexpr unsigned kPortable = 1; // CU_MEMHOSTALLOC_PORTABLE

struct Driver {
  int (*init)(unsigned) = nullptr;
  int (*current)(void**) = nullptr;
  int (*set_current)(void*) = nullptr;
  int (*retain)(void**, int) = nullptr;
  int (*allocate)(void**, std::size_t, unsigned) = nullptr;
  int (*release)(void*) = nullptr;
};

template <class Function>
void find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(::dlsym(library, name));
  if (function == nullptr) {
    throw ModelError(std::string("checkpoints_on_host: the CUDA driver has no ") + name +
                     "; leave the key out");
  }
}

Driver load_driver() {
  void* library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    throw ModelError("checkpoints_on_host: the CUDA driver (libcuda.so.1) can't be loaded; leave the key out");
  }
  Driver driver;
  find(library, "cuInit", driver.init);
  find(library, "cuCtxGetCurrent", driver.current);
  find(library, "cuCtxSetCurrent", driver.set_current);
  find(library, "cuDevicePrimaryCtxRetain", driver.retain);
  find(library, "cuMemHostAlloc", driver.allocate);
  find(library, "cuMemFreeHost", driver.release);
  return driver;
}

const Driver& driver() {
  static const Driver kDriver = load_driver();
  return kDriver;
}

// The driver allocates for the thread's context: MLX's, the device's primary one.
void make_current() {
  void* context = nullptr;
  if (driver().init(0) == 0 && driver().current(&context) == 0 && context == nullptr &&
      driver().retain(&context, 0) == 0) {
    driver().set_current(context);
  }
}

// ---- Moving bytes

constexpr const char* kPut = R"(
  auto* to = reinterpret_cast<uint4*>(place[0]);
  const auto* from = reinterpret_cast<const uint4*>(x);
  const size_t stride = size_t(gridDim.x) * blockDim.x;
  for (size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x; i < size_t(place[1]); i += stride) to[i] = from[i];
  if (blockIdx.x == 0 && threadIdx.x == 0) done[0] = 1.0f;
)";

constexpr const char* kGet = R"(
  const auto* from = reinterpret_cast<const uint4*>(place[0]);
  auto* to = reinterpret_cast<uint4*>(x);
  const size_t stride = size_t(gridDim.x) * blockDim.x;
  for (size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x; i < size_t(place[1]); i += stride) to[i] = from[i];
)";

// Where, and how many vectors: an array, so that one kernel serves all.
mx::array place_of(const void* memory, std::size_t bytes) {
  return mx::array({static_cast<std::int64_t>(reinterpret_cast<std::intptr_t>(memory)),
                    static_cast<std::int64_t>(bytes / kVectorBytes)},
                   {2}, mx::int64);
}

mx::array put_by_kernel(void* memory, const mx::array& x) {
  static const auto kernel = mx::fast::cuda_kernel("temper_put_on_host", {"x", "place"}, {"done"}, kPut);
  return kernel({x, place_of(memory, x.nbytes())}, {{1}}, {mx::float32}, {kBlocks * kThreads, 1, 1},
                {kThreads, 1, 1}, {}, std::nullopt, false, {})[0];
}

mx::array get_by_kernel(void* memory, const mx::array& is_there, const mx::Shape& shape, mx::Dtype dtype,
                        std::size_t bytes) {
  static const auto kernel = mx::fast::cuda_kernel("temper_get_from_host", {"done", "place"}, {"x"}, kGet);
  return kernel({is_there, place_of(memory, bytes)}, {shape}, {dtype}, {kBlocks * kThreads, 1, 1},
                {kThreads, 1, 1}, {}, std::nullopt, false, {})[0];
}

mx::array put_by_host(void* memory, const mx::array& x) {
  return host_op("put_on_host", {mx::view(x, mx::float32)}, {{1}},
                 [memory, bytes = x.nbytes()](const auto& inputs, const auto& outputs) {
                   std::memcpy(memory, inputs[0]->template data<float>(), bytes);
                   outputs[0][0] = 1.0F;
                 })[0];
}

mx::array get_by_host(void* memory, const mx::array& is_there, mx::Shape shape, mx::Dtype dtype,
                      std::size_t bytes) {
  shape.back() = static_cast<int>(static_cast<std::size_t>(shape.back()) * mx::size_of(dtype) / sizeof(float));
  const auto words =
      host_op("get_from_host", {is_there}, {shape},
              [memory, bytes](const auto&, const auto& outputs) { std::memcpy(outputs[0], memory, bytes); })[0];
  return mx::view(words, dtype);
}

} // namespace

std::shared_ptr<HostStore> HostStore::for_device() {
  if (!mx::cu::is_available() || mx::default_device() == mx::Device::cpu) {
    return nullptr;
  }
  driver();
  auto store = std::make_shared<HostStore>();
  store->pinned_ = true;
  return store;
}

HostStore::~HostStore() {
  for (const auto& [key, memory] : memory_) {
    pinned_ ? static_cast<void>(driver().release(memory)) : std::free(memory);
  }
}

void* HostStore::memory(int slot, std::size_t bytes) {
  auto& memory = memory_[{slot, bytes}];
  if (memory == nullptr) {
    if (pinned_) {
      make_current();
      if (driver().allocate(&memory, bytes, kPortable) != 0) {
        memory = nullptr;
      }
    } else {
      memory = std::malloc(bytes);
    }
  }
  if (memory == nullptr) {
    throw OutOfMemory("checkpoints_on_host: no " + std::to_string(bytes) +
                      " bytes more of host memory for a block's input; leave the key out, or lower batch_size");
  }
  return memory;
}

mx::array HostStore::put(int slot, const mx::array& x) {
  void* to = memory(slot, x.nbytes());
  return pinned_ ? put_by_kernel(to, x) : put_by_host(to, x);
}

mx::array HostStore::get(int slot, const mx::array& is_there, const mx::Shape& shape, mx::Dtype dtype) {
  const auto size = std::accumulate(
      shape.begin(), shape.end(), std::size_t{1},
      [](std::size_t product, int extent) { return product * static_cast<std::size_t>(extent); });
  const auto bytes = size * mx::size_of(dtype);
  void* from = memory(slot, bytes);
  return pinned_ ? get_by_kernel(from, is_there, shape, dtype, bytes)
                 : get_by_host(from, is_there, shape, dtype, bytes);
}

bool HostStore::takes(const mx::array& x) {
  return x.ndim() > 0 && static_cast<std::size_t>(x.shape(-1)) * x.itemsize() % kVectorBytes == 0;
}

std::size_t HostStore::num_bytes() const {
  return std::accumulate(memory_.begin(), memory_.end(), std::size_t{0},
                         [](std::size_t sum, const auto& entry) { return sum + entry.first.second; });
}

ArrayFunction recomputed_from_host(const ArrayFunction& f, HostStore& store, int slot) {
  const auto forward = [f, &store, slot](const std::vector<mx::array>& inputs) {
    auto out = f(inputs);
    const auto is_there = store.put(slot, inputs[0]);
    // The next block waits for the copy: else MLX would put it off until the backward pass, and hold the input.
    out = mx::depends(out, {is_there});
    out.push_back(is_there);
    return out;
  };
  const auto backward = [f, &store, slot](const std::vector<mx::array>& in,
                                          const std::vector<mx::array>& cotangents,
                                          const std::vector<mx::array>& out) {
    const std::vector<mx::array> wanted(cotangents.begin(), cotangents.end() - 1);
    auto again = in;
    again[0] = out.back();
    again = mx::depends(again, wanted);
    again[0] = store.get(slot, again[0], in[0].shape(), in[0].dtype());
    return mx::vjp(f, again, wanted).second;
  };
  return [run = mx::custom_vjp(forward, backward)](const std::vector<mx::array>& inputs) {
    auto out = run(inputs);
    out.pop_back();
    return out;
  };
}

} // namespace temper
