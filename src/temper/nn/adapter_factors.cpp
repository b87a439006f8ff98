#include "temper/nn/adapter_factors.h"

#include <algorithm>

#include "temper/nn/gpu_kernels.h"
#include "temper/nn/host_op.h"
#include "temper/nn/random.h"

namespace temper {
namespace {

using Arrays = std::vector<mx::array>;
using Layers = std::vector<AdaptedLinear>;

mx::array side_by_side(const Arrays& parts) {
  return parts.size() == 1 ? parts[0] : mx::concatenate(parts, -1);
}

mx::array scaled(const mx::array& x, float scale) {
  return scale == 1.0F ? x : x * mx::array(scale, x.dtype());
}

// Matrices [I, R], transposed, one above the other.
mx::array stack_transposed(const Arrays& matrices) {
  if (gpu::serves(mx::transpose(matrices[0]))) {
    return gpu::stack_transposed(matrices);
  }
  return matrices.size() == 1 ? mx::contiguous(mx::transpose(matrices[0]))
                              : mx::contiguous(mx::transpose(mx::concatenate(matrices, 1)));
}

// Rows and columns [first, first + count) of a matrix.
mx::array columns(const mx::array& x, int first, int count) {
  return count == x.shape(1) ? x : mx::slice(x, {0, first}, {x.shape(0), first + count});
}

mx::array rows(const mx::array& x, int first, int count) {
  return count == x.shape(0) ? x : mx::slice(x, {first, 0}, {first + count, x.shape(1)});
}

// Whether the kernels for narrow products serve, of these factors with all of `wide`.
bool narrow_kernels_serve(const Factors& factors, const Arrays& wide) {
  return factors.all_ranks <= gpu::kLargestRank && factors.have_one_scale() &&
         std::all_of(wide.begin(), wide.end(), [](const auto& x) { return gpu::serves(x); });
}

// Each layer's rows of a_SI.
mx::array own_a(const Factors& factors, std::size_t layer) {
  return rows(factors.a_SI, factors.first[layer], factors.ranks[layer]);
}

bool kernels_serve(const GradientParts& parts) {
  auto wide = parts.cotangents;
  wide.insert(wide.end(), parts.inputs_NI.begin(), parts.inputs_NI.end());
  return narrow_kernels_serve(parts.factors, wide);
}

Arrays plain_factor_gradients(const GradientParts& parts) {
  const auto& f = parts.factors;
  const bool share_input = parts.inputs_NI.size() == 1;
  const auto joint_IS =
      share_input ? mx::matmul(mx::transpose(parts.inputs_NI[0]), parts.d_narrow_NS) : mx::array(0.0F);
  Arrays all;
  for (std::size_t i = 0; i < f.ranks.size(); ++i) {
    all.push_back(share_input ? columns(joint_IS, f.first[i], f.ranks[i])
                              : mx::matmul(mx::transpose(parts.inputs_NI[i]),
                                           columns(parts.d_narrow_NS, f.first[i], f.ranks[i])));
    // With all layers' narrow products: its rows are a view, the narrow columns would be a copy.
    all.push_back(
        rows(mx::matmul(mx::transpose(parts.narrow_NS), parts.cotangents[i]), f.first[i], f.ranks[i]));
  }
  return all;
}

// All of a group's A, then its B.
void add_products(const GradientParts& parts, std::vector<gpu::ColumnProduct>& products) {
  const auto& f = parts.factors;
  if (parts.inputs_NI.size() == 1) {
    products.push_back({parts.d_narrow_NS, 0, f.ranks, parts.inputs_NI[0], true});
  } else {
    for (std::size_t i = 0; i < f.ranks.size(); ++i) {
      products.push_back({parts.d_narrow_NS, f.first[i], {f.ranks[i]}, parts.inputs_NI[i], true});
    }
  }
  for (std::size_t i = 0; i < f.ranks.size(); ++i) {
    products.push_back({parts.narrow_NS, f.first[i], {f.ranks[i]}, parts.cotangents[i], false});
  }
}

} // namespace

mx::array as_rows(const mx::array& x) {
  return mx::reshape(x, {-1, x.shape(-1)});
}

mx::array with_features(const mx::array& rows, const mx::array& like) {
  auto shape = like.shape();
  shape.back() = rows.shape(1);
  return mx::reshape(rows, shape);
}

mx::array matrix_of(const LinearWeight& weight, mx::Dtype dtype, const mx::array* after) {
  if (weight.dense) {
    return mx::astype(*weight.dense, dtype);
  }
  auto packed = *weight.packed;
  if (after != nullptr) {
    packed.weight = mx::depends({packed.weight}, {*after})[0];
  }
  return gpu::dequantize(packed, dtype);
}

mx::array product(const LinearWeight& weight, const mx::array& x, bool with_bias) {
  const auto matrix_IO = mx::transpose(matrix_of(weight, x.dtype(), nullptr));
  return weight.bias && with_bias ? mx::addmm(mx::astype(*weight.bias, x.dtype()), x, matrix_IO)
                                  : mx::matmul(x, matrix_IO);
}

Arrays inputs_of(const Layers& layers, const mx::array& x) {
  Arrays inputs{x};
  for (const auto& layer : layers) {
    if (layer.lora) {
      inputs.push_back(layer.lora->a);
      inputs.push_back(layer.lora->b);
    }
  }
  for (const auto& layer : layers) {
    if (layer.magnitude_O) {
      inputs.push_back(*layer.magnitude_O);
    }
    if (layer.weight.trains_matrix) {
      inputs.push_back(*layer.weight.dense);
    }
    if (layer.weight.trains_bias) {
      inputs.push_back(*layer.weight.bias);
    }
  }
  return inputs;
}

Factors::Factors(const Layers& layers, const Arrays& inputs, Kept* kept) {
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
      if (layer.dropout_key) {
        dropout = layer.dropout;
        dropout_keys.push_back(*layer.dropout_key);
      }
    }
  }
  if (!a.empty()) {
    a_SI = kept_or(kept, [&] { return stack_transposed(a); });
  }
  // MLX draws random numbers on one core of a CPU: as much time as an eighth of the step.
  if (use_host_kernels(inputs[0])) {
    for (const auto& key : dropout_keys) {
      drawn_masks.push_back(
          kept_or(kept, [&] { return dropout_mask(as_rows(inputs[0]).shape(), dropout, key); }));
    }
  }
}

bool Factors::have_one_scale() const {
  return std::all_of(scales.begin(), scales.end(), [&](float scale) { return scale == scales[0]; });
}

mx::array Factors::scaled_columns(const mx::array& narrow_NS) const {
  if (have_one_scale()) {
    return scaled(narrow_NS, scales[0]);
  }
  std::vector<float> columns;
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    columns.insert(columns.end(), static_cast<std::size_t>(ranks[i]), scales[i]);
  }
  return narrow_NS * mx::astype(mx::array(columns.begin(), {all_ranks}), narrow_NS.dtype());
}

Arrays Factors::masks(const mx::array& x_NI, const mx::array* after) const {
  auto all = drawn_masks;
  if (!all.empty()) {
    return all;
  }
  for (const auto& key : dropout_keys) {
    const auto own = after != nullptr ? mx::depends({key}, {*after})[0] : key;
    all.push_back(dropout_mask(x_NI.shape(), dropout, own));
  }
  return all;
}

Arrays Factors::masked_inputs(const mx::array& x_NI, const Arrays& masks) const {
  Arrays all;
  for (const auto& mask : masks) {
    all.push_back(masked(x_NI, mask, dropout));
  }
  return all.empty() ? Arrays{x_NI} : all;
}

mx::array sum_of(const Arrays& parts) {
  auto sum = parts[0];
  for (std::size_t i = 1; i < parts.size(); ++i) {
    sum = sum + parts[i];
  }
  return sum;
}

mx::array add_low_rank(const Arrays& bases, const mx::array& narrow, int first, const mx::array& factor) {
  constexpr std::size_t kMostBases = 3;
  if (gpu::serves(bases[0]) && factor.shape(0) <= gpu::kLargestRank) {
    return gpu::add_low_rank(bases.size() <= kMostBases ? bases : Arrays{sum_of(bases)},
                             {narrow, first, factor});
  }
  return mx::addmm(sum_of(bases), columns(narrow, first, factor.shape(0)), factor);
}

mx::array narrow_product(const Factors& factors, const mx::array& x_NI) {
  const auto inputs = factors.masked_inputs(x_NI, factors.masks(x_NI, nullptr));
  const bool by_kernel = narrow_kernels_serve(factors, inputs) && inputs.size() <= gpu::kMostProducts;
  if (inputs.size() == 1) {
    return by_kernel ? gpu::row_products({{inputs[0], factors.a_SI}}, factors.scales[0])
                     : factors.scaled_columns(mx::matmul(inputs[0], mx::transpose(factors.a_SI)));
  }
  std::vector<gpu::RowProduct> products;
  Arrays parts;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    products.push_back({inputs[i], own_a(factors, i)});
    parts.push_back(mx::matmul(inputs[i], mx::transpose(own_a(factors, i))));
  }
  return by_kernel ? gpu::row_products(products, factors.scales[0])
                   : factors.scaled_columns(side_by_side(parts));
}

mx::array narrow_gradient(const Factors& factors, const Arrays& cotangents) {
  if (narrow_kernels_serve(factors, cotangents) && cotangents.size() <= gpu::kMostProducts) {
    std::vector<gpu::RowProduct> products;
    products.reserve(cotangents.size());
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

mx::array input_gradient(const Factors& factors, const Arrays& bases, const mx::array& d_narrow_NS,
                         const Arrays& masks) {
  if (masks.empty()) {
    return add_low_rank(bases, d_narrow_NS, 0, factors.a_SI);
  }
  auto parts = bases;
  for (std::size_t i = 0; i < masks.size(); ++i) {
    const auto own = columns(d_narrow_NS, factors.first[i], factors.ranks[i]);
    parts.push_back(masked(mx::matmul(own, own_a(factors, i)), masks[i], factors.dropout));
  }
  return sum_of(parts);
}

Arrays factor_gradients(const std::vector<GradientParts>& groups) {
  Arrays all;
  if (!std::all_of(groups.begin(), groups.end(), kernels_serve)) {
    for (const auto& parts : groups) {
      const auto some = plain_factor_gradients(parts);
      all.insert(all.end(), some.begin(), some.end());
    }
    return all;
  }
  std::vector<gpu::ColumnProduct> products;
  for (const auto& parts : groups) {
    add_products(parts, products);
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

Arrays in_order(const Arrays& inputs, const mx::array& dx, const Arrays& others) {
  Arrays all;
  for (std::size_t i = 0; i < others.size(); ++i) {
    all.push_back(mx::astype(others[i], inputs[i + 1].dtype()));
  }
  const auto last = mx::reshape(dx, inputs[0].shape());
  Arrays result{all.empty() ? last : mx::depends({last}, all)[0]};
  result.insert(result.end(), all.begin(), all.end());
  return result;
}

} // namespace temper
