// Tensors on their way into a GGUF file: arrays until they are written, then bytes of their type.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "temper/io/adapters.h"
#include "temper/io/gguf.h"
#include "temper/io/gguf_arch.h"
#include "temper/io/gguf_recipe.h"
#include "temper/io/model_folder.h"

namespace temper {

struct GgufPiece {
  std::string name; // the file's
  mx::array array;  // unevaluated; row-major, so its last axis is ggml's first
};

// ggml's order.
std::vector<std::int64_t> ggml_dims(const mx::array& array);

// Every tensor of the model as a file of `arch` has it, merged with `adapter` if it is there. Lazy; empties
// `base.params`, so that a tensor lives no longer than it takes to write it.
std::vector<GgufPiece> model_pieces(Model& base, const GgufArch& arch, const Adapter* adapter);

// The factors of a LoRA adapter for a file of `arch`, and the alpha that llama.cpp divides by their ranks.
// Throws ModelError if the adapter holds what such a file can't.
std::pair<std::vector<GgufPiece>, float> adapter_pieces(const DecoderSpec& spec, const GgufArch& arch,
                                                        const Adapter& adapter, const std::string& origin);

// Gives `piece` up when it is written: converted to `type` some rows at a time. `progress` is called before.
// Throws ModelError naming the tensor if a value leaves the type's range.
GgufOutput gguf_output(GgufPiece piece, GgufType type, std::function<void()> progress);

} // namespace temper
