#include "temper/nn/adapter_factors.h"
#include "temper/nn/gpu_kernels.h"

namespace temper {
namespace {

using Arrays = std::vector<mx::array>;
using Layers = std::vector<AdaptedLinear>;

} // namespace

bool adapted_swiglu_serves(const AdaptedLinear& gate, const AdaptedLinear& up, const AdaptedLinear& down,
                           const mx::array& x) {
  const auto fits = [&](const AdaptedLinear& layer) {
    return layer.lora && !layer.weight.bias && !layer.weight.trains_matrix && !layer.dropout_key &&
           !layer.magnitude_O && layer.lora->b.shape(0) <= gpu::kLargestRank &&
           gpu::serves(x, {layer.lora->b.shape(1)});
  };
  // Both inner layers' narrow products come back as one.
  return fits(gate) && fits(up) && fits(down) &&
         gate.lora->b.shape(0) + up.lora->b.shape(0) <= gpu::kLargestRank;
}

mx::array adapted_swiglu_layers(const AdaptedLinear& gate, const AdaptedLinear& up, const AdaptedLinear& down,
                                const mx::array& x, Kept* kept, bool keep_output) {
  const Layers wide{gate, up};
  const Layers last{down};
  const auto inputs = inputs_of({gate, up, down}, x);
  const Factors wide_factors(wide, inputs, kept);
  const Factors last_factors(last, {inputs[0], inputs[5], inputs[6]}, kept);
  const auto x_NI = as_rows(x);
  const auto narrow = kept_or(kept, [&] { return narrow_product(wide_factors, x_NI); });
  const auto gate_NO = kept_or(kept, [&] { return product(gate.weight, x_NI); });
  const auto up_NO = kept_or(kept, [&] { return product(up.weight, x_NI); });
  const gpu::LowRank gate_update{narrow, wide_factors.first[0], wide_factors.b_RO[0]};
  const gpu::LowRank up_update{narrow, wide_factors.first[1], wide_factors.b_RO[1]};
  const auto inner = gpu::adapted_swiglu(gate_NO, up_NO, gate_update, up_update);
  const auto last_narrow = kept_or(kept, [&] { return narrow_product(last_factors, inner); });
  const auto make = [&] {
    return with_features(add_low_rank({product(down.weight, inner)}, last_narrow, 0, last_factors.b_RO[0]), x);
  };
  const auto y = keep_output ? kept_or(kept, make) : make();

  const auto backward = [=](const Arrays& in, const Arrays& cotangents, const Arrays&) {
    const auto dtype = in[0].dtype();
    const auto dy = as_rows(cotangents[0]);
    const auto d_inner = mx::matmul(dy, matrix_of(down.weight, dtype, &dy));
    const auto d_last_narrow = narrow_gradient(last_factors, {dy});
    const auto d = gpu::adapted_swiglu_gradient(gate_NO, up_NO, gate_update, up_update, d_inner,
                                                {d_last_narrow, 0, last_factors.a_SI});
    const auto d_narrow = narrow_gradient(wide_factors, {d[0], d[1]});
    const auto all = factor_gradients({{wide_factors, {as_rows(in[0])}, narrow, d_narrow, {d[0], d[1]}},
                                       {last_factors, {d[2]}, last_narrow, d_last_narrow, {dy}}});
    // Not before the factors' gradients, so that what only those read is free.
    const auto later = mx::depends({d[0], d[1]}, all);
    const auto dx = add_low_rank({mx::matmul(later[0], matrix_of(gate.weight, dtype, &later[0])),
                                  mx::matmul(later[1], matrix_of(up.weight, dtype, &later[1]))},
                                 d_narrow, 0, wide_factors.a_SI);
    return in_order(in, dx, all);
  };
  return mx::custom_vjp([y](const Arrays&) { return Arrays{y}; }, backward)(inputs)[0];
}

} // namespace temper
