#include "temper/nn/short_conv.h"

#include "nn/support.h"
#include "temper/base/error.h"

using namespace temper;
using namespace temper::test;

namespace {

constexpr int kRows = 2;
constexpr int kWidth = 9;
constexpr int kChannels = 3;

const mx::array kX = randn({kRows, kWidth, kChannels}, "x");

mx::array taps(int count) {
  return randn({kChannels, count, 1}, "taps");
}

// Row 0 holds documents of 1, 3 and 5 tokens, row 1 one of 7 and two columns of padding.
const mx::array kPositions({0, 0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6, 0, 0}, {kRows, kWidth}, mx::int32);

// Token by token in doubles, straight from the definition; none of `positions`: rows are documents.
mx::array direct(const mx::array& x, const mx::array& weight, const std::optional<mx::array>& bias,
                 const std::optional<mx::array>& positions) {
  const int reach = weight.shape(1);
  auto y = mx::contiguous(mx::zeros_like(x));
  mx::eval(y);
  auto* out = y.data<float>();
  const auto at = [](const mx::array& a, int i) { return static_cast<double>(a.data<float>()[i]); };
  for (int b = 0; b < x.shape(0); ++b) {
    for (int t = 0; t < x.shape(1); ++t) {
      const int n = b * x.shape(1) + t;
      const int position = positions ? positions->data<std::int32_t>()[n] : t;
      for (int c = 0; c < x.shape(2); ++c) {
        double sum = bias ? at(*bias, c) : 0.0;
        for (int k = 0; k < reach && k <= position; ++k) {
          sum += at(weight, c * reach + reach - 1 - k) * at(x, (n - k) * x.shape(2) + c);
        }
        out[n * x.shape(2) + c] = static_cast<float>(sum);
      }
    }
  }
  return y;
}

mx::array part(const mx::array& x, int begin, int end) {
  return mx::contiguous(mx::slice(x, {0, begin, 0}, {x.shape(0), end, x.shape(2)}));
}

} // namespace

TEST_CASE("a short convolution sums its taps over the columns before, documents apart") {
  const auto x = mx::contiguous(kX);
  const auto bias = randn({kChannels}, "bias");
  mx::eval(x, bias, kPositions);
  for (const int count : {1, 2, 3, 4, 12}) {
    CAPTURE(count);
    const auto weight = taps(count);
    mx::eval(weight);
    CHECK(max_difference(short_conv(x, weight).y_BTC, direct(x, weight, std::nullopt, std::nullopt)) < 1e-5F);
    const auto packed = short_conv(x, weight, bias, kPositions);
    CHECK(max_difference(packed.y_BTC, direct(x, weight, bias, kPositions)) < 1e-5F);
    CHECK(packed.state.shape() == mx::Shape{kRows, count - 1, kChannels});
  }
}

TEST_CASE("a short convolution agrees with MLX's conv1d") {
  const auto weight = taps(4);
  const auto expected = mx::conv1d(mx::pad(kX, {{0, 0}, {3, 0}, {0, 0}}), weight, 1, 0, 1, kChannels);
  CHECK(max_difference(short_conv(kX, weight).y_BTC, expected) < 1e-5F);
}

TEST_CASE("a short convolution goes on from its state, by any steps") {
  const auto weight = taps(4);
  const auto bias = randn({kChannels}, "bias");
  const auto whole = short_conv(kX, weight, bias);
  for (const int step : {1, 2, 4, 8}) {
    CAPTURE(step);
    std::optional<mx::array> state;
    std::vector<mx::array> parts;
    for (int begin = 0; begin < kWidth; begin += step) {
      const auto result =
          short_conv(part(kX, begin, std::min(begin + step, kWidth)), weight, bias, std::nullopt, state);
      parts.push_back(result.y_BTC);
      state = result.state;
    }
    CHECK(max_difference(mx::concatenate(parts, 1), whole.y_BTC) < 1e-5F);
    CHECK(same_bits(*state, whole.state));
  }
}

TEST_CASE("left padding does not reach a row's first real columns, nor the next step's") {
  const auto weight = taps(3);
  const auto text = part(kX, 4, kWidth);
  const auto positions = mx::array({0, 0, 0, 0, 0, 1, 2, 3}, {1, 8}, mx::int32);
  const auto padded = short_conv(part(kX, 0, 8), weight, std::nullopt, positions);
  const auto alone = short_conv(part(text, 0, 4), weight);
  CHECK(max_difference(part(padded.y_BTC, 4, 8), alone.y_BTC) < 1e-6F);
  const auto next = part(kX, 8, 9);
  const auto at = mx::array({4}, {1, 1}, mx::int32);
  CHECK(max_difference(short_conv(next, weight, std::nullopt, at, padded.state).y_BTC,
                       short_conv(next, weight, std::nullopt, at, alone.state).y_BTC) < 1e-6F);
  // A text of one token leaves padding in the state, which its position hides.
  const auto lonely = mx::array({0, 0, 0}, {1, 3}, mx::int32);
  const auto after = short_conv(part(kX, 0, 3), weight, std::nullopt, lonely);
  const auto second = short_conv(next, weight, std::nullopt, mx::array({1}, {1, 1}, mx::int32), after.state);
  const auto both = short_conv(mx::concatenate({part(kX, 2, 3), next}, 1), weight);
  CHECK(max_difference(second.y_BTC, part(both.y_BTC, 1, 2)) < 1e-6F);
}

TEST_CASE("a short convolution's gradients agree with finite differences") {
  const auto bias = randn({kChannels}, "bias");
  const auto state = randn({kRows, 3, kChannels}, "state");
  check_gradients(
      [&](const Arrays& in) { return short_conv(in[0], in[1], in[2], kPositions, std::nullopt).y_BTC; },
      {kX, taps(4), bias});
  check_gradients(
      [&](const Arrays& in) {
        const auto result = short_conv(in[0], in[1], in[2], std::nullopt, in[3]);
        return mx::concatenate({result.y_BTC, result.state}, 1);
      },
      {kX, taps(4), bias, state});
}

TEST_CASE("a short convolution keeps its input's dtype") {
  const auto half = short_conv(mx::astype(kX, mx::bfloat16), taps(3), randn({kChannels}, "bias"), kPositions);
  CHECK(half.y_BTC.dtype() == mx::bfloat16);
  CHECK(half.state.dtype() == mx::bfloat16);
  CHECK(relative_difference(half.y_BTC, short_conv(kX, taps(3), randn({kChannels}, "bias"), kPositions).y_BTC) <
        0.03F);
}

TEST_CASE("taps, biases and states that do not fit are refused with their shapes") {
  const auto message = message_of<ModelError>([] { short_conv(kX, randn({kChannels, 1, 3}, "torch")); });
  CHECK(contains(message, "[3, 1, 3]"));
  CHECK(contains(message, "3 channels"));
  CHECK(contains(message_of<ModelError>([] { short_conv(kX, taps(3), mx::zeros({4})); }), "[4]"));
  CHECK(contains(message_of<ModelError>([] {
                   short_conv(kX, taps(3), std::nullopt, std::nullopt, mx::zeros({2, 3, 3}));
                 }),
                 "should have shape [2, 2, 3], not [2, 3, 3]"));
  CHECK(
      contains(message_of<ModelError>([] { short_conv(kX, taps(3), std::nullopt, mx::zeros({9}, mx::int32)); }),
               "positions should have shape [2, 9], not [9]"));
}
