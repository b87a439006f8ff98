// A GGUF file's metadata as the config.json that its family reads: the way back from gguf_arch.h.
#pragma once

#include "temper/base/json.h"
#include "temper/io/gguf.h"

namespace temper {

// Hugging Face's keys for what "<arch>.*" and the tensors' shapes say; torch_dtype is what most weights are
// stored in (float16 where they are quantized, bfloat16 for Gemma, which float16 is too narrow for). Reads the
// small tensors of rope's factors. Throws ModelError naming the file and an architecture that no family is of,
// a key that is missing or of another type, or one that says what no family computes.
Json gguf_config(const GgufHeader& header);

} // namespace temper
