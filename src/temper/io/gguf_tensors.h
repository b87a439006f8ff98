// The tensors of a GGUF file as arrays, by the file's names, read when they are first needed.
// Formats: docs/formats/gguf.md.
#pragma once

#include <string>
#include <vector>

#include "temper/io/gguf.h"
#include "temper/nn/params.h"

namespace temper {

// Axes in our order: a weight whose `dims` are {in, out} is [out, in]. F32, F16 and BF16 come as they are.
// Q4_0, Q4_1 and Q8_0 hold, block by block, exactly what mode affine does in groups of 32 (quant/packed.h), so
// "<name>.weight" comes packed: uint32, with "<name>.scales" and "<name>.biases" in float16. All other formats
// are unpacked by ggml, to float32. A tensor that is not a weight ("<name>.bias", or of one axis) is never
// packed. Lazy: the header was checked, the bytes are mapped and read tensor by tensor. Throws ModelError
// naming a tensor of integers, or too large for an array; IoError.
Params load_gguf_tensors(const GgufHeader& header);

// Those of these names alone.
Params load_gguf_tensors(const GgufHeader& header, const std::vector<std::string>& names);

} // namespace temper
