#include "temper/nn/short_conv.h"

#include "temper/base/error.h"

namespace temper {
namespace {

void check_shapes(const mx::array& x, const mx::array& weight, const std::optional<mx::array>& bias,
                  const std::optional<mx::array>& positions, const std::optional<mx::array>& state) {
  const int channels = x.shape(-1);
  const bool fits = weight.ndim() == 3 && weight.shape(0) == channels && weight.shape(1) > 0 &&
                    weight.shape(2) == 1 && (!bias || bias->shape() == mx::Shape{channels});
  if (!fits) {
    throw ModelError("a short convolution over " + std::to_string(channels) +
                     " channels wants a weight [channels, taps, 1] and a bias [channels], not " +
                     shape_text(weight.shape()) + (bias ? " and " + shape_text(bias->shape()) : ""));
  }
  const mx::Shape every{x.shape(0), x.shape(1)};
  if (positions && positions->shape() != every && positions->shape() != mx::Shape{1, x.shape(1)}) {
    throw ModelError("a short convolution's positions should have shape " + shape_text(every) + ", not " +
                     shape_text(positions->shape()));
  }
  const mx::Shape expected{x.shape(0), weight.shape(1) - 1, channels};
  if (state && state->shape() != expected) {
    throw ModelError("a short convolution's state should have shape " + shape_text(expected) + ", not " +
                     shape_text(state->shape()));
  }
}

// Columns [begin, begin + count) of x [B, T, C].
mx::array columns(const mx::array& x, int begin, int count) {
  return mx::slice(x, {0, begin, 0}, {x.shape(0), begin + count, x.shape(2)});
}

} // namespace

ShortConvResult short_conv(const mx::array& x_BTC, const mx::array& weight,
                           const std::optional<mx::array>& bias, const std::optional<mx::array>& positions_BT,
                           const std::optional<mx::array>& state) {
  check_shapes(x_BTC, weight, bias, positions_BT, state);
  const int width = x_BTC.shape(1);
  const int reach = weight.shape(1) - 1;
  const auto taps_CK = mx::squeeze(mx::astype(weight, x_BTC.dtype()), 2);
  const auto before = state ? mx::astype(*state, x_BTC.dtype())
                            : mx::zeros({x_BTC.shape(0), reach, x_BTC.shape(2)}, x_BTC.dtype());
  const auto padded = mx::concatenate({before, x_BTC}, 1);

  auto y = x_BTC * mx::take(taps_CK, reach, 1);
  for (int k = 1; k <= reach; ++k) {
    auto product = columns(padded, reach - k, width) * mx::take(taps_CK, reach - k, 1);
    if (positions_BT) {
      const auto reached = mx::expand_dims(mx::greater_equal(*positions_BT, mx::array(k)), 2);
      product = mx::where(reached, product, mx::zeros({}, product.dtype()));
    }
    y = y + product;
  }
  if (bias) {
    y = y + mx::astype(*bias, x_BTC.dtype());
  }
  // Contiguous, so that a kept state doesn't keep the whole input alive.
  return {y, mx::contiguous(columns(padded, width, reach))};
}

} // namespace temper
