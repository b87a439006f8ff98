// With TEMPER_SOAK_STEPS=2000 in `make test-all`. Nothing piles up over a long run: of buffers above all, of
// which MLX's Metal back end can have 499,000. Every allocation of MLX passes allocator::allocator(): the one
// here, found before MLX's own, counts.
#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <fstream>

#include "mlx/allocator.h"
#include "train/support.h"

using namespace temper;
using namespace temper::test;

namespace {

namespace alloc = mx::allocator;

class Counting final : public alloc::Allocator {
 public:
  explicit Counting(alloc::Allocator& inner) : inner_(inner) {
  }
  alloc::Buffer malloc(std::size_t size) override {
    ++live_;
    return inner_.malloc(size);
  }
  void free(alloc::Buffer buffer) override {
    live_ -= buffer.ptr() != nullptr ? 1 : 0;
    inner_.free(buffer);
  }
  std::size_t size(alloc::Buffer buffer) const override {
    return inner_.size(buffer);
  }
  alloc::Buffer make_buffer(void* pointer, std::size_t size) override {
    const auto buffer = inner_.make_buffer(pointer, size);
    live_ += buffer.ptr() != nullptr ? 1 : 0;
    return buffer;
  }
  void release(alloc::Buffer buffer) override {
    live_ -= buffer.ptr() != nullptr ? 1 : 0;
    inner_.release(buffer);
  }
  std::int64_t live() const {
    return live_;
  }

 private:
  alloc::Allocator& inner_;
  std::atomic<std::int64_t> live_ = 0;
};

Counting& counting() {
  static Counting* const kCounting = [] {
    using Function = alloc::Allocator& (*)();
    const auto function = reinterpret_cast<Function>(::dlsym(RTLD_NEXT, "_ZN3mlx4core9allocator9allocatorEv"));
    return new Counting(function()); // lives as long as MLX, which is torn down after everything here
  }();
  return *kCounting;
}

} // namespace

namespace mlx::core::allocator {

Allocator& allocator() {
  return counting();
}

} // namespace mlx::core::allocator

namespace {

// Examples of all lengths to `longest`, so that rows come in every shape.
std::vector<Example> varied_examples(int count, int longest) {
  std::vector<Example> all;
  std::uint32_t noise = 29;
  const auto next = [&] { return (noise = noise * 1664525U + 1013904223U) >> 16; };
  for (int i = 0; i < count; ++i) {
    Example example;
    const int length = 4 + static_cast<int>(next() % static_cast<unsigned>(longest - 4));
    for (int t = 0; t < length; ++t) {
      example.tokens.push_back(static_cast<std::int32_t>(next() % kVocab));
      example.supervised.push_back(t >= length / 3 ? 1 : 0);
    }
    all.push_back(example);
  }
  return all;
}

// Of the whole process. 0 where the system does not tell so.
std::size_t resident_bytes() {
  std::size_t whole = 0;
  std::size_t resident = 0;
  std::ifstream("/proc/self/statm") >> whole >> resident;
  return resident * 4096;
}

// What is held between steps.
class Watch final : public Callback {
 public:
  struct Held {
    std::int64_t buffers;
    std::size_t bytes;
    std::size_t resident;
  };
  void between_steps(Trainer&) override {
    mx::synchronize();
    held.push_back({counting().live(), mx::get_active_memory(), resident_bytes()});
  }
  // The most in the steps from `from` to `to`, as shares of all.
  Held most(double from, double to) const {
    Held most{0, 0, 0};
    for (auto i = static_cast<std::size_t>(from * static_cast<double>(held.size()));
         i < static_cast<std::size_t>(to * static_cast<double>(held.size())); ++i) {
      most.buffers = std::max(most.buffers, held[i].buffers);
      most.bytes = std::max(most.bytes, held[i].bytes);
      most.resident = std::max(most.resident, held[i].resident);
    }
    return most;
  }

  std::vector<Held> held;
};

std::int64_t num_steps() {
  const char* given = std::getenv("TEMPER_SOAK_STEPS");
  return given != nullptr ? std::atoll(given) : 200;
}

} // namespace

TEST_CASE("live buffers are counted") {
  const auto before = counting().live();
  {
    const auto array = mx::arange(1000.0F) + 1.0F;
    mx::eval(array);
    CHECK(counting().live() > before);
  }
  mx::synchronize();
  CHECK(counting().live() == before);
}

TEST_CASE("neither live buffers nor memory grow with the steps, packed and not, LoRA and full") {
  for (const bool packing : {true, false}) {
    for (const bool full : {false, true}) {
      CAPTURE(packing);
      CAPTURE(full);
      Setting setting(num_steps(), 4);
      setting.full = full;
      setting.examples = varied_examples(64, 60);
      setting.trainer.loader = loader_options(4, packing);
      setting.trainer.schedule = [](std::int64_t) { return 1e-4; };
      Training training(std::move(setting));
      const auto watch = std::make_shared<Watch>();
      training.trainer().add_callback(watch);
      training.run();
      const auto early = watch->most(0.2, 0.6);
      const auto late = watch->most(0.6, 1.0);
      MESSAGE(watch->held.size() << " steps: buffers " << early.buffers << " -> " << late.buffers << ", bytes "
                                 << early.bytes << " -> " << late.bytes << ", resident " << early.resident
                                 << " -> " << late.resident);
      REQUIRE(early.buffers > 0);
      CHECK(late.buffers <= early.buffers + 2);
      CHECK(static_cast<double>(late.bytes) <= 1.02 * static_cast<double>(early.bytes));
#ifndef __SANITIZE_ADDRESS__ // which keeps what was freed for a while
      CHECK(late.resident <= early.resident + (std::size_t{1} << 20));
#endif
    }
  }
}
