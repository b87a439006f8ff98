// Shared by the tests of everything that computes: arrays at random, distances, finite differences.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "base/messages.h"
#include "temper/nn/device.h"
#include "temper/nn/params.h"
#include "temper/nn/random.h"

namespace temper::test {

// MLX compiles kernels with g++ on a CPU, seconds each: the tests run uncompiled unless they say otherwise.
inline const bool kPrepared = [] {
  prepare_device();
  mx::disable_compile();
  return true;
}();

using Arrays = std::vector<mx::array>;

inline mx::array randn(const mx::Shape& shape, const std::string& name) {
  return mx::random::normal(shape, mx::float32, named_key(7, name));
}

inline float max_difference(const mx::array& a, const mx::array& b) {
  REQUIRE(a.shape() == b.shape());
  return mx::max(mx::abs(mx::astype(a, mx::float32) - mx::astype(b, mx::float32))).item<float>();
}

// Largest difference by the largest entry of `b`.
inline float relative_difference(const mx::array& a, const mx::array& b) {
  return max_difference(a, b) / (mx::max(mx::abs(mx::astype(b, mx::float32))).item<float>() + 1e-12F);
}

inline bool same_bits(const mx::array& a, const mx::array& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() && mx::array_equal(a, b).item<bool>();
}

inline bool same_bits(const Params& a, const Params& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](const auto& x, const auto& y) {
           return x.first == y.first && same_bits(x.second, y.second);
         });
}

// `f` as a scalar: its result against fixed random weights, so that no entry of the gradient is alike.
using Function = std::function<mx::array(const Arrays&)>;
inline mx::array weighted(const mx::array& y) {
  return mx::sum(mx::astype(y, mx::float32) * randn(y.shape(), "weights"));
}

inline Arrays gradients_of(const Function& f, const Arrays& inputs) {
  std::vector<int> all(inputs.size());
  std::iota(all.begin(), all.end(), 0);
  auto result =
      mx::value_and_grad(Function([&](const Arrays& in) { return weighted(f(in)); }), all)(inputs).second;
  mx::eval(result);
  return result;
}

// The gradient of every input against (f(x + h d) - f(x - h d)) / 2h along three random directions d.
inline void check_gradients(const Function& f, const Arrays& inputs, float tolerance = 2e-3F) {
  constexpr float kStep = 1e-2F;
  const auto gradients = gradients_of(f, inputs);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const auto scale = mx::sqrt(mx::sum(mx::square(gradients[i]))).item<float>();
    for (int n = 0; n < 3; ++n) {
      CAPTURE(i);
      const auto raw = randn(inputs[i].shape(), "direction " + std::to_string(n));
      const auto direction = raw / mx::sqrt(mx::sum(mx::square(raw)));
      const auto at = [&](float h) {
        auto moved = inputs;
        moved[i] = inputs[i] + mx::array(h) * direction;
        return weighted(f(moved)).item<float>();
      };
      const float slope = (at(kStep) - at(-kStep)) / (2 * kStep);
      const float expected = mx::sum(gradients[i] * direction).item<float>();
      CHECK(std::abs(slope - expected) < tolerance * (scale + 1.0F));
    }
  }
}

} // namespace temper::test
