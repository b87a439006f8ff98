#include "temper/nn/adapted_linear.h"

#include <utility>

#include "temper/nn/adapter_factors.h"

namespace temper {
namespace {

using Arrays = std::vector<mx::array>;
using Layers = std::vector<AdaptedLinear>;

// What the backward pass reads of the forward one.
struct Forward {
  Factors factors;
  std::optional<mx::array> narrow_NS;
  Arrays u; // each layer's output before its magnitude and, with one, its bias
};

Forward run_forward(const Layers& layers, const Arrays& inputs, Kept* kept, bool keep_outputs) {
  Forward forward{Factors(layers, inputs, kept), std::nullopt, {}};
  const auto& factors = forward.factors;
  const auto& x = inputs[0];
  const auto x_NI = as_rows(x);
  if (!factors.empty()) {
    forward.narrow_NS = kept_or(kept, [&] { return narrow_product(factors, x_NI); });
  }
  std::size_t next = 0;
  for (const auto& layer : layers) {
    const auto make = [&, at = next] {
      auto u_NO = product(layer.weight, x_NI, !layer.magnitude_O);
      if (layer.lora) {
        u_NO = add_low_rank({u_NO}, *forward.narrow_NS, factors.first[at], factors.b_RO[at]);
      }
      return with_features(u_NO, x);
    };
    forward.u.push_back(keep_outputs || layer.magnitude_O ? kept_or(kept, make) : make());
    next += layer.lora ? 1 : 0;
  }
  return forward;
}

Arrays outputs(const Layers& layers, const Forward& forward) {
  Arrays y;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const auto& layer = layers[i];
    y.push_back(forward.u[i]);
    if (layer.magnitude_O) {
      y[i] = y[i] * *layer.magnitude_O;
      y[i] = layer.weight.bias ? y[i] + mx::astype(*layer.weight.bias, y[i].dtype()) : y[i];
    }
  }
  return y;
}

// The rows' sum: as a product, which half precisions accumulate in fp32.
mx::array row_sum(const mx::array& x_NO) {
  return mx::squeeze(mx::matmul(mx::ones({1, x_NO.shape(0)}, x_NO.dtype()), x_NO), 0);
}

Arrays gradients(const Layers& layers, const Forward& forward, const Arrays& inputs, const Arrays& cotangents) {
  const auto& factors = forward.factors;
  const auto x_NI = as_rows(inputs[0]);
  Arrays dx;
  Arrays adapted;
  Arrays others;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const auto& [weight, lora, scale, dropout, key, magnitude_O] = layers[i];
    const auto dy_NO = as_rows(cotangents[i]);
    auto du_NO = dy_NO;
    if (magnitude_O) {
      others.push_back(row_sum(dy_NO * as_rows(forward.u[i])));
      du_NO = dy_NO * *magnitude_O;
    }
    if (weight.trains_matrix) {
      others.push_back(mx::matmul(mx::transpose(du_NO), x_NI));
    }
    if (weight.trains_bias) {
      others.push_back(row_sum(dy_NO));
    }
    dx.push_back(mx::matmul(du_NO, matrix_of(weight, x_NI.dtype(), &cotangents[i])));
    if (lora) {
      adapted.push_back(du_NO);
    }
  }
  if (factors.empty()) {
    return in_order(inputs, sum_of(dx), others);
  }
  const auto masks = factors.masks(x_NI, &cotangents[0]);
  const auto d_narrow = narrow_gradient(factors, adapted);
  auto all =
      factor_gradients({{factors, factors.masked_inputs(x_NI, masks), *forward.narrow_NS, d_narrow, adapted}});
  all.insert(all.end(), others.begin(), others.end());
  return in_order(inputs, input_gradient(factors, dx, d_narrow, masks), all);
}

} // namespace

std::vector<mx::array> adapted_linears(const std::vector<AdaptedLinear>& layers, const mx::array& x, Kept* kept,
                                       bool keep_outputs) {
  const auto inputs = inputs_of(layers, x);
  const auto forward = run_forward(layers, inputs, kept, keep_outputs);
  auto y = outputs(layers, forward);
  const auto backward = [layers, forward](const Arrays& in, const Arrays& cotangents, const Arrays&) {
    return gradients(layers, forward, in, cotangents);
  };
  return mx::custom_vjp([y = std::move(y)](const Arrays&) { return y; }, backward)(inputs);
}

} // namespace temper
