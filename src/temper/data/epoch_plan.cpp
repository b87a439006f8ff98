#include "temper/data/epoch_plan.h"

#include <algorithm>
#include <numeric>

namespace temper {
namespace {

// Batches whose examples are sorted by length together. More: less padding; fewer: less alike company.
constexpr std::size_t kWindowBatches = 32;
// A pass has at least this many windows (while a window keeps a batch), or small data would always be
// batched the same way.
constexpr std::size_t kMinWindows = 4;

// SplitMix64. Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators".
class SplitMix {
 public:
  SplitMix(std::uint64_t seed, std::uint64_t stream) : state_(seed) {
    state_ = next() ^ stream;
    state_ = next();
  }
  std::uint64_t next() {
    state_ += 0x9e3779b97f4a7c15ULL;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  }
  // Uniform in [0, bound), without bias.
  std::uint64_t below(std::uint64_t bound) {
    const std::uint64_t unfair = (0 - bound) % bound;
    std::uint64_t value = next();
    while (value < unfair) {
      value = next();
    }
    return value % bound;
  }

 private:
  std::uint64_t state_;
};

template <typename T>
void shuffle(std::span<T> values, SplitMix& random) {
  for (std::size_t i = values.size(); i > 1; --i) {
    std::swap(values[i - 1], values[random.below(i)]);
  }
}

// Says where one batch ends and the next begins, as examples are offered one by one.
class BatchCutter {
 public:
  explicit BatchCutter(const LoaderOptions& options) : options_(options) {
  }
  // Whether an example of `tokens` starts a new batch.
  bool starts_new(std::size_t tokens) {
    const bool full = options_.batch_tokens > 0
                          ? tokens_ + static_cast<std::int64_t>(tokens) > options_.batch_tokens
                          : examples_ == options_.batch_size;
    const bool starts = examples_ == 0 || full;
    if (starts) {
      examples_ = 0;
      tokens_ = 0;
    }
    ++examples_;
    tokens_ += static_cast<std::int64_t>(tokens);
    return starts;
  }
  void restart() {
    examples_ = 0;
    tokens_ = 0;
  }

 private:
  const LoaderOptions& options_;
  int examples_ = 0;
  std::int64_t tokens_ = 0;
};

struct Range {
  std::size_t begin = 0;
  std::size_t end = 0;
};

std::size_t estimated_batch_examples(const TokenDataset& data, const LoaderOptions& options) {
  if (options.batch_tokens <= 0) {
    return static_cast<std::size_t>(options.batch_size);
  }
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < data.size(); ++i) {
    total += data.length(i);
  }
  const auto mean = std::max<std::uint64_t>(total / data.size(), 1);
  return std::max<std::size_t>(static_cast<std::uint64_t>(options.batch_tokens) / mean, 1);
}

// Examples a window: whole batches, so that only the pass's last window can hold a smaller one.
std::size_t window_examples(const TokenDataset& data, const LoaderOptions& options) {
  const auto batch = estimated_batch_examples(data, options);
  const auto batches = data.size() / batch;
  return batch * std::clamp<std::size_t>(batches / kMinWindows, 1, kWindowBatches);
}

} // namespace

void EpochPlan::truncate(std::size_t count) {
  if (count < size()) {
    starts_.resize(count + 1);
    order_.resize(starts_.back());
  }
}

EpochPlan plan_in_order(const TokenDataset& data, const LoaderOptions& options) {
  EpochPlan plan;
  plan.order_.resize(data.size());
  std::iota(plan.order_.begin(), plan.order_.end(), 0U);
  BatchCutter cutter(options);
  for (std::size_t i = 0; i < data.size(); ++i) {
    if (cutter.starts_new(data.length(i))) {
      plan.starts_.push_back(i);
    }
  }
  plan.starts_.push_back(data.size());
  return plan;
}

EpochPlan plan_shuffled(const TokenDataset& data, const LoaderOptions& options, std::uint64_t epoch) {
  SplitMix random(options.seed, epoch);
  std::vector<std::uint32_t> order(data.size());
  std::iota(order.begin(), order.end(), 0U);
  shuffle(std::span(order), random);

  std::vector<Range> batches;
  const auto window = window_examples(data, options);
  BatchCutter cutter(options);
  for (std::size_t begin = 0; begin < order.size(); begin += window) {
    const std::size_t end = std::min(begin + window, order.size());
    std::stable_sort(order.begin() + static_cast<std::ptrdiff_t>(begin),
                     order.begin() + static_cast<std::ptrdiff_t>(end),
                     [&](auto a, auto b) { return data.length(a) < data.length(b); });
    cutter.restart();
    for (std::size_t i = begin; i < end; ++i) {
      if (cutter.starts_new(data.length(order[i]))) {
        batches.push_back({i, i});
      }
      batches.back().end = i + 1;
    }
  }
  const bool last_is_small = options.batch_tokens <= 0 && batches.back().end - batches.back().begin <
                                                              static_cast<std::size_t>(options.batch_size);
  shuffle(std::span(batches).first(batches.size() - (last_is_small ? 1 : 0)), random);

  EpochPlan plan;
  plan.order_.reserve(order.size());
  plan.starts_.reserve(batches.size() + 1);
  for (const auto& batch : batches) {
    plan.starts_.push_back(plan.order_.size());
    plan.order_.insert(plan.order_.end(), order.begin() + static_cast<std::ptrdiff_t>(batch.begin),
                       order.begin() + static_cast<std::ptrdiff_t>(batch.end));
  }
  plan.starts_.push_back(plan.order_.size());
  return plan;
}

EpochPlan plan_mlx_lm(std::size_t num_examples, std::size_t batch_size,
                      std::span<const std::uint32_t> permutation) {
  EpochPlan plan;
  plan.order_.reserve(num_examples);
  for (const auto batch : permutation) {
    plan.starts_.push_back(plan.order_.size());
    for (std::size_t i = 0; i < batch_size; ++i) {
      plan.order_.push_back(static_cast<std::uint32_t>(batch * batch_size + i));
    }
  }
  plan.starts_.push_back(plan.order_.size());
  return plan;
}

std::vector<std::uint32_t> shuffled_indices(std::size_t n, std::uint64_t seed, std::uint64_t stream) {
  std::vector<std::uint32_t> indices(n);
  std::iota(indices.begin(), indices.end(), 0U);
  SplitMix random(seed, stream);
  shuffle(std::span(indices), random);
  return indices;
}

} // namespace temper
