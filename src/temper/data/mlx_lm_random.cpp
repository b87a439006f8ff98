#include "temper/data/mlx_lm_random.h"

#include <bit>
#include <limits>
#include <numeric>
#include <utility>

#include "temper/base/error.h"

namespace temper {
namespace {

constexpr std::size_t kPeriod = 624;
constexpr std::size_t kShift = 397;

std::uint32_t numpy_seed(std::uint64_t seed) {
  if (seed > std::numeric_limits<std::uint32_t>::max()) {
    throw ConfigError("seed: " + std::to_string(seed) +
                      " does not fit mlx-lm's generator; with compat: mlx-lm use at most 4294967295");
  }
  return static_cast<std::uint32_t>(seed);
}

} // namespace

NumpyRandom::NumpyRandom(std::uint32_t seed) {
  state_[0] = seed;
  for (std::uint32_t i = 1; i < kPeriod; ++i) {
    state_[i] = 1812433253U * (state_[i - 1] ^ (state_[i - 1] >> 30)) + i;
  }
}

void NumpyRandom::refill() {
  for (std::size_t i = 0; i < kPeriod; ++i) {
    const std::uint32_t joined = (state_[i] & 0x80000000U) | (state_[(i + 1) % kPeriod] & 0x7fffffffU);
    const std::uint32_t twist = (joined & 1U) != 0 ? 0x9908b0dfU : 0U;
    state_[i] = state_[(i + kShift) % kPeriod] ^ (joined >> 1) ^ twist;
  }
  position_ = 0;
}

std::uint32_t NumpyRandom::next() {
  if (position_ == kPeriod) {
    refill();
  }
  std::uint32_t y = state_[position_++];
  y ^= y >> 11;
  y ^= (y << 7) & 0x9d2c5680U;
  y ^= (y << 15) & 0xefc60000U;
  return y ^ (y >> 18);
}

// numpy draws a bounded value by masking and rejection.
std::uint32_t NumpyRandom::at_most(std::uint32_t limit) {
  if (limit == 0) {
    return 0;
  }
  const std::uint32_t mask = std::numeric_limits<std::uint32_t>::max() >> std::countl_zero(limit);
  std::uint32_t value = next() & mask;
  while (value > limit) {
    value = next() & mask;
  }
  return value;
}

std::vector<std::uint32_t> NumpyRandom::permutation(std::uint32_t n) {
  std::vector<std::uint32_t> values(n);
  std::iota(values.begin(), values.end(), 0U);
  for (std::uint32_t i = n; i-- > 1;) {
    std::swap(values[i], values[at_most(i)]);
  }
  return values;
}

MlxLmRandom::MlxLmRandom(std::uint64_t seed) : seed_(numpy_seed(seed)), random_(seed_) {
}

std::vector<std::uint32_t> MlxLmRandom::permutation(std::uint32_t n) {
  drawn_.push_back(n);
  return random_.permutation(n);
}

std::vector<std::uint32_t> MlxLmRandom::replay(std::size_t index) const {
  if (index >= drawn_.size()) {
    throw CheckpointError("the data cursor names draw " + std::to_string(index) + " of " +
                          std::to_string(drawn_.size()) + "; the checkpoint is not of this run");
  }
  NumpyRandom random(seed_);
  for (std::size_t i = 0; i < index; ++i) {
    random.permutation(drawn_[i]);
  }
  return random.permutation(drawn_[index]);
}

Json MlxLmRandom::to_json() const {
  return {{"seed", seed_}, {"draws", drawn_}};
}

MlxLmRandom MlxLmRandom::from_json(const Json& json) {
  try {
    MlxLmRandom random(json.at("seed").get<std::uint64_t>());
    for (const auto& n : json.at("draws")) {
      random.permutation(n.get<std::uint32_t>());
    }
    return random;
  } catch (const Json::exception& error) {
    throw CheckpointError(std::string("the checkpoint's mlx-lm generator is damaged: ") + error.what());
  }
}

} // namespace temper
