// Which type each tensor of a GGUF file gets, as llama-quantize chooses it without statistics of activations
// (llama-quant.cpp of llama.cpp's source, MIT).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "temper/io/gguf.h"
#include "temper/models/spec.h"

namespace temper {

struct GgufRecipe {
  const char* name = "";       // of --type: "q4_k_m"
  GgufType base{};             // of matrices that no rule below singles out
  std::uint32_t file_type = 0; // general.file_type
  bool mixed = false;          // more bits for some layers
};

const std::vector<GgufRecipe>& gguf_recipes();

// Throws ConfigError naming the recipes there are.
const GgufRecipe& find_gguf_recipe(const std::string& name);

struct GgufTypeChoice {
  GgufType type = GgufType::f32;
  bool fell_back = false; // rows are no whole blocks of the type that the recipe wants
};

// For each tensor, in the order of the blocks: `names` are the file's and `dims` in ggml's order. Vectors,
// norms, routers and convolutions stay fp32.
std::vector<GgufTypeChoice> choose_types(const GgufRecipe& recipe, const DecoderSpec& spec,
                                         const std::vector<std::string>& names,
                                         const std::vector<std::vector<std::int64_t>>& dims);

} // namespace temper
