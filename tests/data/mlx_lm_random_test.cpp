#include "temper/data/mlx_lm_random.h"

#include <doctest/doctest.h>

#include <cstdint>
#include <vector>

#include "temper/base/error.h"

using temper::MlxLmRandom;
using temper::NumpyRandom;

using Order = std::vector<std::uint32_t>;

// Values from numpy 2: np.random.seed(0), then these calls in a row.
TEST_CASE("permutations are numpy's bit for bit") {
  NumpyRandom random(0);
  CHECK(random.permutation(10) == Order{2, 8, 4, 9, 1, 6, 7, 3, 0, 5});
  CHECK(random.permutation(5) == Order{1, 0, 2, 3, 4});
  CHECK(random.permutation(1) == Order{0});
  CHECK(random.permutation(0).empty());
  CHECK(random.permutation(37) == Order{28, 11, 10, 21, 2,  27, 6,  31, 22, 4,  33, 35, 26, 34, 18, 7, 14, 3, 0,
                                        29, 15, 30, 32, 16, 19, 20, 9,  8,  13, 25, 5,  17, 36, 23, 1, 12, 24});
}

TEST_CASE("the largest seed and many refills agree with numpy") {
  NumpyRandom largest(4294967295U);
  CHECK(largest.permutation(17) == Order{8, 1, 5, 14, 10, 15, 16, 13, 11, 9, 6, 0, 4, 7, 12, 2, 3});

  NumpyRandom random(42);
  const auto order = random.permutation(100000);
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    sum += i * order[i];
  }
  CHECK(sum == 249851129327323ULL);
  CHECK(order[0] == 75721);
  CHECK(order[99999] == 15795);
}

TEST_CASE("the shared generator replays any draw and survives JSON") {
  MlxLmRandom random(7);
  const auto first = random.permutation(12);
  const auto second = random.permutation(5);
  const auto third = random.permutation(12);
  CHECK(random.replay(0) == first);
  CHECK(random.replay(1) == second);
  CHECK(random.replay(2) == third);

  auto restored = MlxLmRandom::from_json(random.to_json());
  CHECK(restored.num_draws() == 3);
  CHECK(restored.permutation(9) == random.permutation(9));
  CHECK_THROWS_AS(random.replay(4), temper::CheckpointError);
  CHECK_THROWS_AS(MlxLmRandom::from_json({{"seed", 1}}), temper::CheckpointError);
  CHECK_THROWS_AS(MlxLmRandom(1ULL << 32), temper::ConfigError);
}
