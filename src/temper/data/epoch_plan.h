// Which examples make which batch of a pass: the order that a seed and a pass's number stand for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "temper/data/loader.h"
#include "temper/data/token_dataset.h"

namespace temper {

class EpochPlan {
 public:
  std::size_t size() const { // batches
    return starts_.empty() ? 0 : starts_.size() - 1;
  }
  // Example indices of batch `index`.
  std::span<const std::uint32_t> operator[](std::size_t index) const {
    return std::span(order_).subspan(starts_[index], starts_[index + 1] - starts_[index]);
  }
  // Keeps the first `count` batches.
  void truncate(std::size_t count);

 private:
  friend EpochPlan plan_in_order(const TokenDataset& data, const LoaderOptions& options);
  friend EpochPlan plan_shuffled(const TokenDataset& data, const LoaderOptions& options, std::uint64_t epoch);
  friend EpochPlan plan_mlx_lm(std::size_t num_examples, std::size_t batch_size,
                               std::span<const std::uint32_t> permutation);

  std::vector<std::uint32_t> order_;
  std::vector<std::size_t> starts_; // of each batch in order_, and the end
};

// Batches of consecutive examples, in the data's order.
EpochPlan plan_in_order(const TokenDataset& data, const LoaderOptions& options);

// The order described in loader.h, from (options.seed, epoch) alone; the same on every platform.
EpochPlan plan_shuffled(const TokenDataset& data, const LoaderOptions& options, std::uint64_t epoch);

// mlx-lm's: whole batches of consecutive examples, taken in the order of `permutation`.
EpochPlan plan_mlx_lm(std::size_t num_examples, std::size_t batch_size,
                      std::span<const std::uint32_t> permutation);

// Fisher-Yates over [0, n) from a generator of our own (the standard library's shuffle differs by platform).
std::vector<std::uint32_t> shuffled_indices(std::size_t n, std::uint64_t seed, std::uint64_t stream);

} // namespace temper
