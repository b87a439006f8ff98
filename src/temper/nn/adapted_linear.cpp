#include "temper/nn/adapted_linear.h"

#include <algorithm>

#include "temper/nn/gpu_kernels.h"

namespace temper {
namespace {

using Arrays = std::vector<mx::array>;
using Layers = std::vector<AdaptedLinear>;

// The weight [O, I] in `dtype`. A packed one is unpacked only once `after` is there.
mx::array weight_of(const FrozenLinear& layer, mx::Dtype dtype, const mx::array* after) {
  if (layer.dense) {
    return mx::astype(*layer.dense, dtype);
  }
  auto packed = *layer.packed;
  if (after != nullptr) {
    packed.weight = mx::depends({packed.weight}, {*after})[0];
  }
  return gpu::dequantize(packed, dtype);
}

mx::array product(const FrozenLinear& layer, const mx::array& x) {
  const auto weight_IO = mx::transpose(weight_of(layer, x.dtype(), nullptr));
  return layer.bias ? mx::addmm(mx::astype(*layer.bias, x.dtype()), x, weight_IO) : mx::matmul(x, weight_IO);
}

mx::array as_rows(const mx::array& x) {
  return mx::reshape(x, {-1, x.shape(-1)});
}

mx::array with_features(const mx::array& rows, const mx::array& like) {
  auto shape = like.shape();
  shape.back() = rows.shape(1);
  return mx::reshape(rows, shape);
}

mx::array side_by_side(const Arrays& parts) {
  return parts.size() == 1 ? parts[0] : mx::concatenate(parts, -1);
}

mx::array scaled(const mx::array& x, float scale) {
  return scale == 1.0F ? x : x * mx::array(scale, x.dtype());
}

// `make()`, kept in a first run and found in a second.
mx::array kept_or(Kept* kept, const std::function<mx::array()>& make) {
  if (kept != nullptr && kept->replays()) {
    return kept->next();
  }
  auto array = make();
  if (kept != nullptr) {
    kept->put(array);
  }
  return array;
}

// Matrices [I, R], transposed, one above the other.
mx::array stack_transposed(const Arrays& matrices) {
  if (gpu::serves(mx::transpose(matrices[0]))) {
    return gpu::stack_transposed(matrices);
  }
  return matrices.size() == 1 ? mx::contiguous(mx::transpose(matrices[0]))
                              : mx::contiguous(mx::transpose(mx::concatenate(matrices, 1)));
}

// The factors of the layers that have them, in x's dtype.
struct Factors {
  mx::array a_SI = mx::array(0.0F); // one above the other
  Arrays b_RO;
  std::vector<int> ranks;
  std::vector<int> first; // each layer's first row of a_SI
  std::vector<float> scales;
  int all_ranks = 0;

  Factors(const Layers& layers, const Arrays& inputs, Kept* kept) {
    Arrays a;
    std::size_t next = 1;
    for (const auto& layer : layers) {
      if (layer.lora) {
        a.push_back(mx::astype(inputs[next], inputs[0].dtype()));
        b_RO.push_back(mx::astype(inputs[next + 1], inputs[0].dtype()));
        ranks.push_back(b_RO.back().shape(0));
        first.push_back(all_ranks);
        scales.push_back(layer.scale);
        all_ranks += ranks.back();
        next += 2;
      }
    }
    if (!a.empty()) {
      a_SI = kept_or(kept, [&] { return stack_transposed(a); });
    }
  }

  bool empty() const {
    return b_RO.empty();
  }

  bool have_one_scale() const {
    return std::all_of(scales.begin(), scales.end(), [&](float scale) { return scale == scales[0]; });
  }

  // narrow [N, S], each layer's columns times its scale.
  mx::array scaled_columns(const mx::array& narrow_NS) const {
    if (have_one_scale()) {
      return scaled(narrow_NS, scales[0]);
    }
    std::vector<float> columns;
    for (std::size_t i = 0; i < ranks.size(); ++i) {
      columns.insert(columns.end(), static_cast<std::size_t>(ranks[i]), scales[i]);
    }
    return narrow_NS * mx::astype(mx::array(columns.begin(), {all_ranks}), narrow_NS.dtype());
  }

  // Whether the kernels for narrow products serve, of these factors with all of `wide`.
  bool narrow_kernels_serve(const Arrays& wide) const {
    return all_ranks <= gpu::kLargestRank && wide.size() <= gpu::kMostProducts && have_one_scale() &&
           std::all_of(wide.begin(), wide.end(), [](const auto& x) { return gpu::serves(x); });
  }
};

// Rows and columns [first, first + count) of a matrix.
mx::array columns(const mx::array& x, int first, int count) {
  return count == x.shape(1) ? x : mx::slice(x, {0, first}, {x.shape(0), first + count});
}

mx::array rows(const mx::array& x, int first, int count) {
  return count == x.shape(0) ? x : mx::slice(x, {first, 0}, {first + count, x.shape(1)});
}

mx::array sum_of(const Arrays& parts) {
  auto sum = parts[0];
  for (std::size_t i = 1; i < parts.size(); ++i) {
    sum = sum + parts[i];
  }
  return sum;
}

// The sum of `bases` and of narrow's columns from `first` on times `factor`.
mx::array add_low_rank(const Arrays& bases, const mx::array& narrow, int first, const mx::array& factor) {
  if (gpu::serves(bases[0]) && factor.shape(0) <= gpu::kLargestRank && bases.size() <= 3) {
    return gpu::add_low_rank(bases, {narrow, first, factor});
  }
  return mx::addmm(sum_of(bases), columns(narrow, first, factor.shape(0)), factor);
}

// x A of all layers, times their scales.
mx::array narrow_product(const Factors& factors, const mx::array& x_NI) {
  if (factors.narrow_kernels_serve({x_NI})) {
    return gpu::row_products({{x_NI, factors.a_SI}}, factors.scales[0]);
  }
  return factors.scaled_columns(mx::matmul(x_NI, mx::transpose(factors.a_SI)));
}

// dy B^T of all layers, times their scales. cotangents: of the adapted layers' outputs, [N, O].
mx::array narrow_gradient(const Factors& factors, const Arrays& cotangents) {
  if (factors.narrow_kernels_serve(cotangents)) {
    std::vector<gpu::RowProduct> products;
    for (std::size_t i = 0; i < cotangents.size(); ++i) {
      products.push_back({cotangents[i], factors.b_RO[i]});
    }
    return gpu::row_products(products, factors.scales[0]);
  }
  Arrays parts;
  for (std::size_t i = 0; i < cotangents.size(); ++i) {
    parts.push_back(mx::matmul(cotangents[i], mx::transpose(factors.b_RO[i])));
  }
  return factors.scaled_columns(side_by_side(parts));
}

// What the gradients of the factors of layers over one input come from.
struct GradientParts {
  const Factors& factors;
  mx::array x_NI;
  mx::array narrow_NS;
  mx::array d_narrow_NS;
  Arrays cotangents;

  bool kernels_serve() const {
    auto wide = cotangents;
    wide.push_back(x_NI);
    return factors.narrow_kernels_serve(wide);
  }
};

Arrays plain_factor_gradients(const GradientParts& parts) {
  const auto& f = parts.factors;
  const auto da_IS = mx::matmul(mx::transpose(parts.x_NI), parts.d_narrow_NS);
  Arrays all;
  for (std::size_t i = 0; i < f.ranks.size(); ++i) {
    all.push_back(columns(da_IS, f.first[i], f.ranks[i]));
    // With all layers' narrow products: its rows are a view, the narrow columns would be a copy.
    all.push_back(
        rows(mx::matmul(mx::transpose(parts.narrow_NS), parts.cotangents[i]), f.first[i], f.ranks[i]));
  }
  return all;
}

// A, B of each adapted layer, of one group of layers after the other.
Arrays factor_gradients(const std::vector<GradientParts>& groups) {
  Arrays all;
  if (!std::all_of(groups.begin(), groups.end(), [](const auto& parts) { return parts.kernels_serve(); })) {
    for (const auto& parts : groups) {
      const auto some = plain_factor_gradients(parts);
      all.insert(all.end(), some.begin(), some.end());
    }
    return all;
  }
  std::vector<gpu::ColumnProduct> products;
  for (const auto& parts : groups) {
    const auto& f = parts.factors;
    products.push_back({parts.d_narrow_NS, 0, f.ranks, parts.x_NI, true});
    for (std::size_t i = 0; i < f.ranks.size(); ++i) {
      products.push_back({parts.narrow_NS, f.first[i], {f.ranks[i]}, parts.cotangents[i], false});
    }
  }
  const auto found = gpu::column_products(products);
  std::size_t at = 0;
  for (const auto& parts : groups) {
    const auto count = parts.factors.ranks.size();
    for (std::size_t i = 0; i < count; ++i) {
      all.push_back(found[at + i]);
      all.push_back(found[at + count + i]);
    }
    at += 2 * count;
  }
  return all;
}

// Gradients in the dtypes of `inputs`: in x, which leaves only once the factors' are formed, so that what they
// read need not wait for the rest of the backward pass.
Arrays in_order(const Arrays& inputs, const mx::array& dx, const Arrays& factors) {
  Arrays all;
  for (std::size_t i = 0; i < factors.size(); ++i) {
    all.push_back(mx::astype(factors[i], inputs[i + 1].dtype()));
  }
  const auto last = mx::reshape(dx, inputs[0].shape());
  Arrays result{all.empty() ? last : mx::depends({last}, all)[0]};
  result.insert(result.end(), all.begin(), all.end());
  return result;
}

Arrays outputs(const Layers& layers, const mx::array& x, const Factors& factors, const mx::array* narrow_NS) {
  const auto x_NI = as_rows(x);
  Arrays y;
  std::size_t next = 0;
  for (const auto& layer : layers) {
    auto y_NO = product(layer.frozen, x_NI);
    if (layer.lora) {
      y_NO = add_low_rank({y_NO}, *narrow_NS, factors.first[next], factors.b_RO[next]);
      ++next;
    }
    y.push_back(with_features(y_NO, x));
  }
  return y;
}

Arrays gradients(const Layers& layers, const Factors& factors, const Arrays& inputs, const Arrays& cotangents,
                 const mx::array* narrow_NS) {
  const auto dtype = inputs[0].dtype();
  Arrays dx;
  Arrays adapted;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const auto dy_NO = as_rows(cotangents[i]);
    dx.push_back(mx::matmul(dy_NO, weight_of(layers[i].frozen, dtype, &cotangents[i])));
    if (layers[i].lora) {
      adapted.push_back(dy_NO);
    }
  }
  if (factors.empty()) {
    return in_order(inputs, sum_of(dx), {});
  }
  const auto d_narrow = narrow_gradient(factors, adapted);
  const auto found = factor_gradients({{factors, as_rows(inputs[0]), *narrow_NS, d_narrow, adapted}});
  return in_order(inputs, add_low_rank(dx, d_narrow, 0, factors.a_SI), found);
}

Arrays inputs_of(const Layers& layers, const mx::array& x) {
  Arrays inputs{x};
  for (const auto& layer : layers) {
    if (layer.lora) {
      inputs.push_back(layer.lora->a);
      inputs.push_back(layer.lora->b);
    }
  }
  return inputs;
}

} // namespace

std::vector<mx::array> adapted_linears(const std::vector<AdaptedLinear>& layers, const mx::array& x, Kept* kept,
                                       bool keep_outputs) {
  const auto inputs = inputs_of(layers, x);
  const Factors factors(layers, inputs, kept);
  std::optional<mx::array> narrow_NS;
  if (!factors.empty()) {
    narrow_NS = kept_or(kept, [&] { return narrow_product(factors, as_rows(x)); });
  }
  const auto* narrow = narrow_NS ? &*narrow_NS : nullptr;
  Arrays y;
  if (!(keep_outputs && kept != nullptr && kept->replays())) {
    y = outputs(layers, x, factors, narrow);
  }
  for (std::size_t i = 0; keep_outputs && i < layers.size(); ++i) {
    const auto own = kept_or(kept, [&] { return y[i]; });
    y.resize(std::max(y.size(), i + 1), own);
    y[i] = own;
  }
  const auto backward = [layers, factors, narrow_NS](const Arrays& in, const Arrays& cotangents,
                                                     const Arrays&) {
    return gradients(layers, factors, in, cotangents, narrow_NS ? &*narrow_NS : nullptr);
  };
  return mx::custom_vjp([y](const Arrays&) { return y; }, backward)(inputs);
}

bool adapted_swiglu_serves(const AdaptedLinear& gate, const AdaptedLinear& up, const AdaptedLinear& down,
                           const mx::array& x) {
  const auto fits = [&](const AdaptedLinear& layer) {
    return layer.lora && !layer.frozen.bias && layer.lora->b.shape(0) <= gpu::kLargestRank &&
           gpu::serves(x, {layer.lora->b.shape(1)});
  };
  // Both inner layers' narrow products come back as one.
  return fits(gate) && fits(up) && fits(down) &&
         gate.lora->b.shape(0) + up.lora->b.shape(0) <= gpu::kLargestRank;
}

mx::array adapted_swiglu_layers(const AdaptedLinear& gate, const AdaptedLinear& up, const AdaptedLinear& down,
                                const mx::array& x, Kept* kept) {
  const Layers wide{gate, up};
  const Layers last{down};
  const auto inputs = inputs_of({gate, up, down}, x);
  const Factors wide_factors(wide, inputs, kept);
  const Factors last_factors(last, {inputs[0], inputs[5], inputs[6]}, kept);
  const auto x_NI = as_rows(x);
  const auto narrow = kept_or(kept, [&] { return narrow_product(wide_factors, x_NI); });
  const auto gate_NO = kept_or(kept, [&] { return product(gate.frozen, x_NI); });
  const auto up_NO = kept_or(kept, [&] { return product(up.frozen, x_NI); });
  const gpu::LowRank gate_update{narrow, wide_factors.first[0], wide_factors.b_RO[0]};
  const gpu::LowRank up_update{narrow, wide_factors.first[1], wide_factors.b_RO[1]};
  const auto inner = gpu::adapted_swiglu(gate_NO, up_NO, gate_update, up_update);
  const auto last_narrow = kept_or(kept, [&] { return narrow_product(last_factors, inner); });
  const auto y =
      with_features(add_low_rank({product(down.frozen, inner)}, last_narrow, 0, last_factors.b_RO[0]), x);

  const auto backward = [=](const Arrays& in, const Arrays& cotangents, const Arrays&) {
    const auto dtype = in[0].dtype();
    const auto dy = as_rows(cotangents[0]);
    const auto d_inner = mx::matmul(dy, weight_of(down.frozen, dtype, &dy));
    const auto d_last_narrow = narrow_gradient(last_factors, {dy});
    const auto d = gpu::adapted_swiglu_gradient(gate_NO, up_NO, gate_update, up_update, d_inner,
                                                {d_last_narrow, 0, last_factors.a_SI});
    const auto d_narrow = narrow_gradient(wide_factors, {d[0], d[1]});
    const auto all = factor_gradients({{wide_factors, as_rows(in[0]), narrow, d_narrow, {d[0], d[1]}},
                                       {last_factors, d[2], last_narrow, d_last_narrow, {dy}}});
    // Not before the factors' gradients, so that what only those read is free.
    const auto later = mx::depends({d[0], d[1]}, all);
    const auto dx = add_low_rank({mx::matmul(later[0], weight_of(gate.frozen, dtype, &later[0])),
                                  mx::matmul(later[1], weight_of(up.frozen, dtype, &later[1]))},
                                 d_narrow, 0, wide_factors.a_SI);
    return in_order(in, dx, all);
  };
  return mx::custom_vjp([y](const Arrays&) { return Arrays{y}; }, backward)(inputs)[0];
}

} // namespace temper
