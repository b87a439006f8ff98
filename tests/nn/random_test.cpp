#include "temper/nn/random.h"

#include <set>

#include "nn/support.h"

using namespace temper;
using namespace temper::test;

namespace {

std::pair<std::uint32_t, std::uint32_t> words(mx::array key) {
  mx::eval(key);
  REQUIRE(key.shape() == mx::Shape{2});
  REQUIRE(key.dtype() == mx::uint32);
  return {key.data<std::uint32_t>()[0], key.data<std::uint32_t>()[1]};
}

} // namespace

TEST_CASE("keys depend on seed and name alone and do not repeat") {
  CHECK(words(named_key(1, "a")) == words(named_key(1, "a")));
  std::set<std::pair<std::uint32_t, std::uint32_t>> seen;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    for (int step = 0; step < 20; ++step) {
      const auto key = named_key(seed, "step " + std::to_string(step));
      seen.insert(words(key));
      seen.insert(words(fold_in(key, 0)));
      seen.insert(words(fold_in(key, 1)));
    }
  }
  CHECK(seen.size() == 20 * 20 * 3);
}

TEST_CASE("dropout zeroes its share, scales the rest and follows its key") {
  const auto x = mx::full({200, 200}, 3.0F, mx::float32);
  const auto key = named_key(5, "mask");
  for (const float probability : {0.1F, 0.5F, 0.9F}) {
    CAPTURE(probability);
    const auto y = dropout(x, probability, key);
    const auto zero = mx::equal(y, mx::array(0.0F));
    const float share = mx::mean(mx::astype(zero, mx::float32)).item<float>();
    CHECK(share == doctest::Approx(probability).epsilon(0.05));
    const auto kept = mx::array(3.0F / (1.0F - probability));
    CHECK(mx::all(mx::logical_or(zero, mx::less(mx::abs(y - kept), mx::array(1e-4F)))).item<bool>());
    // Unbiased: the mean stays, within four standard errors.
    const float error = 3.0F * std::sqrt(probability / (1.0F - probability) / 40000.0F);
    CHECK(std::abs(mx::mean(y).item<float>() - 3.0F) < 4 * error);
  }
  CHECK(same_bits(dropout(x, 0.5F, key), dropout(x, 0.5F, key)));
  CHECK_FALSE(same_bits(dropout(x, 0.5F, key), dropout(x, 0.5F, fold_in(key, 1))));
}

TEST_CASE("masks of neighbouring sites are independent") {
  const auto x = mx::ones({100000});
  const auto key = named_key(0, "step 0");
  const auto first = dropout(x, 0.5F, fold_in(key, 3)) * 0.5F;
  const auto second = dropout(x, 0.5F, fold_in(key, 4)) * 0.5F;
  CHECK(mx::mean(first * second).item<float>() == doctest::Approx(0.25).epsilon(0.03));
}
