// Which format each layer of a model is packed in.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "temper/models/tensors.h"
#include "temper/quant/format.h"

namespace temper {

// A recipe of mlx-lm's: more bits for the layers that suffer most from few (values, down projections, the
// head).
struct QuantRecipe {
  std::string name;
  int low_bits = 4;
  int high_bits = 6;
};

const std::vector<QuantRecipe>& quant_recipes();

struct QuantChoice {
  QuantFormat format;
  std::string recipe; // by name; empty: `format` for all
  std::vector<std::string>
      keep; // layers to leave as they are: "lm_head", "self_attn.q_proj", "router", or whole
};

// What most layers get.
QuantFormat base_format(const QuantChoice& choice);

// The formats by layer, for all that are to be packed. Routers, and what a family calls sensitive, take 8 bits,
// as in mlx-lm. Throws ConfigError for a recipe that there is not, or `keep` that names no layer; ModelError
// naming a layer that its format does not fit.
std::map<std::string, QuantFormat> plan_quantization(const DecoderSpec& spec, const QuantChoice& choice);

} // namespace temper
