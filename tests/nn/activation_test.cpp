#include "temper/nn/activation.h"

#include <numbers>

#include "nn/support.h"

using namespace temper;
using namespace temper::test;

namespace {

const std::vector<Activation> kAll{Activation::silu, Activation::gelu, Activation::gelu_tanh,
                                   Activation::clamped_swiglu};

// In doubles, from the definitions.
double expected(Activation activation, double gate, double up) {
  const auto sigmoid = [](double x) { return 1.0 / (1.0 + std::exp(-x)); };
  switch (activation) {
    case Activation::silu:
      return gate * sigmoid(gate) * up;
    case Activation::gelu:
      return gate * 0.5 * std::erfc(-gate / std::sqrt(2.0)) * up;
    case Activation::gelu_tanh:
      return gate * 0.5 *
             (1 + std::tanh(std::sqrt(2.0 / std::numbers::pi) * (gate + 0.044715 * std::pow(gate, 3)))) * up;
    case Activation::clamped_swiglu:
      break;
  }
  const double g = std::min(gate, 7.0);
  return g * sigmoid(1.702 * g) * (std::min(std::max(up, -7.0), 7.0) + 1);
}

} // namespace

TEST_CASE("gated units agree with their definitions, beyond the clamps too") {
  const std::vector<float> values{-30, -9, -7.5F, -3, -1, -0.1F, 0, 0.2F, 1, 2.5F, 6.9F, 7.1F, 12, 40};
  const int count = static_cast<int>(values.size());
  const auto column = mx::array(values.data(), {count, 1}, mx::float32);
  const auto gate = mx::contiguous(mx::broadcast_to(column, {count, count}));
  const auto up = mx::contiguous(mx::transpose(gate));
  for (const auto activation : kAll) {
    const auto y = glu(activation, gate, up);
    mx::eval(y);
    for (std::size_t i = 0; i < values.size(); ++i) {
      for (std::size_t j = 0; j < values.size(); ++j) {
        const float got = y.data<float>()[i * values.size() + j];
        const double want = expected(activation, double{values[i]}, double{values[j]});
        CHECK(std::abs(double{got} - want) < 1e-5 * (1 + std::abs(want)));
      }
    }
  }
}

TEST_CASE("gated units' gradients agree with finite differences, and end at the clamps") {
  const auto gate = randn({4, 9}, "gate");
  const auto up = randn({4, 9}, "up");
  for (const auto activation : kAll) {
    check_gradients([&](const Arrays& in) { return glu(activation, in[0], in[1]); }, {gate, up});
  }
  const auto beyond =
      gradients_of([](const Arrays& in) { return glu(Activation::clamped_swiglu, in[0], in[1]); },
                   {mx::array({8.0F, 1.0F, 1.0F}, {3}), mx::array({1.0F, 9.0F, -9.0F}, {3})});
  CHECK(mx::take(beyond[0], 0).item<float>() == 0.0F);
  CHECK(mx::take(beyond[1], 1).item<float>() == 0.0F);
  CHECK(mx::take(beyond[1], 2).item<float>() == 0.0F);
}

TEST_CASE("gated units keep their dtype, and their gradients theirs") {
  const auto gate = randn({4, 9}, "gate");
  const auto up = randn({4, 9}, "up");
  for (const auto activation : kAll) {
    const auto f = [&](const Arrays& in) { return glu(activation, in[0], in[1]); };
    const Arrays half{mx::astype(gate, mx::bfloat16), mx::astype(up, mx::bfloat16)};
    CHECK(f(half).dtype() == mx::bfloat16);
    CHECK(relative_difference(f(half), f({gate, up})) < 0.02F);
    CHECK(gradients_of(f, half)[0].dtype() == mx::bfloat16);
  }
}
