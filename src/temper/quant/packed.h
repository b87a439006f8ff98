// Packed matrices: quantize, dequantize, and products with them. Tensors are laid out as MLX and mlx-lm have
// them.
// Dims: O out_features, I in_features, W = I bits / 32 words a row, G = I / group_size groups a row,
//       ... any leading dims (experts).
#pragma once

#include <functional>
#include <optional>
#include <string>

#include <mlx/mlx.h>

#include "temper/quant/format.h"

namespace temper {

namespace mx = mlx::core;

struct PackedWeight {
  mx::array weight;                // uint32 [..., O, W]
  mx::array scales;                // [..., O, G]: uint8, or in mode affine a float dtype
  std::optional<mx::array> biases; // as scales, in mode affine
  QuantFormat format;

  int in_features() const;
};

// Packs weight [..., O, I] of a float dtype, which becomes the scales' (mode affine). Lazy. Throws ModelError,
// with `name`, if its rows are not whole groups.
PackedWeight quantize(const mx::array& weight, const QuantFormat& format, const std::string& name);

// [..., O, I] in `dtype`. In mode affine float32 is computed from the scales in float32, a half precision in
// the scales' own. Lazy; no gradient flows into the packed parts.
mx::array dequantize(const PackedWeight& packed, mx::Dtype dtype);

// The format that tensors of these shapes and dtypes have, for rows of `in_features` weights. Throws ModelError
// naming tensor "<name>.weight" or ".scales" if there is none.
QuantFormat infer_quant_format(const mx::array& weight, const mx::array& scales, bool has_biases,
                               int in_features, const std::string& name);

// The packed and the scales' shape for a dense [..., O, I]. Throws ModelError, with `name`, if it does not fit.
mx::Shape packed_shape(const QuantFormat& format, mx::Shape dense, const std::string& name);
mx::Shape scales_shape(const QuantFormat& format, mx::Shape dense, const std::string& name);

// Whether packed_matmul() unpacks the weight for so many rows of x.
bool unpacks_for(std::size_t num_rows);

// x [..., I] -> [..., O], x W^T, in x's dtype, for a weight [O, W]. Few rows are multiplied with the packed
// weight itself, many with an unpacked_product().
// Lazy; differentiable in x.
mx::array packed_matmul(const mx::array& x, const PackedWeight& packed);

// product(x, weight), whose gradient in x is gradient(cotangent, weight): the dense weight, in x's dtype, lives
// for a product only. The backward pass unpacks it again, and not before its cotangent is there.
// Lazy; differentiable in x.
using WeightProduct = std::function<mx::array(const mx::array& x, const mx::array& weight)>;
mx::array unpacked_product(const mx::array& x, const PackedWeight& packed, const WeightProduct& product,
                           const WeightProduct& gradient);

} // namespace temper
