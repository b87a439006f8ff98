// A block of a text's newest token, or of a few texts', as few kernels on a GPU (nn/gpu_decode.h): its weights
// are read once, and what else is done to a token lies within the launches that read them.
// Dims: B rows, E hidden_size.
#pragma once

#include <optional>

#include "temper/models/block_part.h"

namespace temper {

// What leaves the first half of block(), x [B, 1, E] with the mixer's output added; none where the kernels do
// not serve. Lazy.
std::optional<mx::array> few_rows_mixer(const DecoderSpec& spec, ForwardContext& context,
                                        const PassInput& input, int layer, const mx::array& x);

// The same of the second half, where that is no layer of experts.
std::optional<mx::array> few_rows_ffn(const DecoderSpec& spec, ForwardContext& context, const PassInput& input,
                                      int layer, const mx::array& h);

// hidden W^T with the frozen weight [O, E], of generation; none where the kernels do not serve. Lazy.
std::optional<mx::array> few_rows_product(const mx::array& hidden, const mx::array& weight_OE);

} // namespace temper
