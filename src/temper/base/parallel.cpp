#include "temper/base/parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "temper/base/error.h"
#include "temper/base/text.h"

namespace temper {
namespace {

constexpr std::int64_t kMostThreads = 1024;

using Body = std::function<void(std::size_t, std::size_t)>;

// One loop: threads take pieces until none is left.
struct Loop {
  const Body* body = nullptr;
  std::size_t count = 0;
  std::size_t grain = 1;
  std::atomic<std::size_t> next{0};

  void work() {
    for (;;) {
      const auto begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= count) {
        return;
      }
      (*body)(begin, std::min(begin + grain, count));
    }
  }
};

class Pool {
 public:
  explicit Pool(std::size_t workers) {
    for (std::size_t i = 0; i < workers; ++i) {
      threads_.emplace_back([this] { serve(); });
    }
  }
  ~Pool() {
    {
      const std::lock_guard lock(mutex_);
      is_closing_ = true;
    }
    wake_.notify_all();
    for (auto& thread : threads_) {
      thread.join();
    }
  }

  // False if another loop is running: the caller then works alone.
  bool run(Loop& loop) {
    std::unique_lock busy(running_, std::try_to_lock);
    if (!busy) {
      return false;
    }
    {
      const std::lock_guard lock(mutex_);
      loop_ = &loop;
      ++generation_;
      num_working_ = threads_.size();
    }
    wake_.notify_all();
    loop.work();
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return num_working_ == 0; });
    return true;
  }

 private:
  void serve() {
    std::size_t seen = 0;
    for (;;) {
      Loop* loop = nullptr;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return is_closing_ || generation_ != seen; });
        if (is_closing_) {
          return;
        }
        seen = generation_;
        loop = loop_;
      }
      loop->work();
      const std::lock_guard lock(mutex_);
      if (--num_working_ == 0) {
        done_.notify_one();
      }
    }
  }

  std::vector<std::thread> threads_;
  std::mutex running_; // held by the thread whose loop runs
  std::mutex mutex_;   // guards what follows
  std::condition_variable wake_;
  std::condition_variable done_;
  Loop* loop_ = nullptr;
  std::size_t generation_ = 0;
  std::size_t num_working_ = 0;
  bool is_closing_ = false;
};

} // namespace

std::size_t num_threads() {
  static const std::size_t count = [] {
    const char* wanted = std::getenv("TEMPER_THREADS");
    if (wanted == nullptr || *wanted == '\0') {
      return std::max<std::size_t>(1, std::thread::hardware_concurrency());
    }
    const auto given = whole_number(wanted).value_or(0);
    if (given < 1 || given > kMostThreads) {
      throw ConfigError("TEMPER_THREADS '" + std::string(wanted) + "' is not a number of threads from 1 to " +
                        std::to_string(kMostThreads));
    }
    return static_cast<std::size_t>(given);
  }();
  return count;
}

void parallel_for(std::size_t count, std::size_t grain, const Body& body) {
  Loop loop;
  loop.body = &body;
  loop.count = count;
  loop.grain = std::max<std::size_t>(1, grain);
  static Pool pool(num_threads() - 1);
  if (count <= loop.grain || num_threads() == 1 || !pool.run(loop)) {
    loop.work();
  }
}

} // namespace temper
