#include "temper/models/quant_plan.h"

#include <algorithm>
#include <optional>
#include <set>

#include "temper/base/error.h"
#include "temper/models/registry.h"

namespace temper {
namespace {

const QuantFormat kSensitive{"affine", 8, 64};

// The layer's name in every length that a user may give it: whole, within its block, its last part.
std::set<std::string> names_of(const DecoderSpec& spec, const MatrixLayer& layer) {
  return {layer.name, layer_key(spec, layer.name), layer.name.substr(layer.name.rfind('.') + 1)};
}

bool is_kept(const DecoderSpec& spec, const MatrixLayer& layer, const std::vector<std::string>& keep) {
  const auto names = names_of(spec, layer);
  return std::any_of(keep.begin(), keep.end(), [&](const auto& name) { return names.contains(name); });
}

void check_keep(const DecoderSpec& spec, const std::vector<std::string>& keep) {
  std::set<std::string> known;
  std::set<std::string> shown;
  for (const auto& layer : matrix_layers(spec)) {
    known.merge(names_of(spec, layer));
    shown.insert(layer_key(spec, layer.name));
  }
  for (const auto& name : keep) {
    if (!known.contains(name)) {
      std::string choices;
      for (const auto& choice : shown) {
        choices += (choices.empty() ? "" : ", ") + choice;
      }
      throw ConfigError("keep: " + name + " matches no layer of this model; choose from " + choices);
    }
  }
}

const QuantRecipe& find_recipe(const std::string& name) {
  std::string known;
  for (const auto& recipe : quant_recipes()) {
    if (recipe.name == name) {
      return recipe;
    }
    known += (known.empty() ? "" : ", ") + recipe.name;
  }
  throw ConfigError("recipe " + name + " is not one of " + known);
}

// The first and last eighth of the blocks, and of those between every third.
bool is_weighty(int block, int num_blocks) {
  const int eighth = num_blocks / 8;
  return block < eighth || block >= 7 * num_blocks / 8 || (block - eighth) % 3 == 2;
}

QuantFormat by_recipe(const DecoderSpec& spec, const QuantRecipe& recipe, int group_size,
                      const MatrixLayer& layer) {
  const auto block = block_of(spec, layer.name);
  const bool is_value = layer.name.find("v_proj") != std::string::npos;
  const bool is_down = layer.name.ends_with("." + spec.names.down);
  const bool high =
      layer.kind == LayerKind::head || (block && (is_value || is_down) && is_weighty(*block, spec.num_layers));
  return make_quant_format("affine", high ? recipe.high_bits : recipe.low_bits, group_size);
}

bool is_sensitive(const DecoderSpec& spec, const MatrixLayer& layer) {
  const auto& named = find_family(spec.model_type, layer.name).sensitive;
  return layer.kind == LayerKind::router ||
         std::find(named.begin(), named.end(), layer_key(spec, layer.name)) != named.end();
}

} // namespace

const std::vector<QuantRecipe>& quant_recipes() {
  static const std::vector<QuantRecipe> kRecipes{
      {"mixed_2_6", 2, 6},
      {"mixed_3_4", 3, 4},
      {"mixed_3_6", 3, 6},
      {"mixed_4_6", 4, 6},
  };
  return kRecipes;
}

QuantFormat base_format(const QuantChoice& choice) {
  return choice.recipe.empty()
             ? choice.format
             : make_quant_format("affine", find_recipe(choice.recipe).low_bits, choice.format.group_size);
}

std::map<std::string, QuantFormat> plan_quantization(const DecoderSpec& spec, const QuantChoice& choice) {
  check_keep(spec, choice.keep);
  const auto* recipe = choice.recipe.empty() ? nullptr : &find_recipe(choice.recipe);
  std::map<std::string, QuantFormat> plan;
  for (const auto& layer : matrix_layers(spec)) {
    if (is_kept(spec, layer, choice.keep)) {
      continue;
    }
    const bool sensitive = is_sensitive(spec, layer);
    auto format = sensitive           ? kSensitive
                  : recipe != nullptr ? by_recipe(spec, *recipe, choice.format.group_size, layer)
                                      : choice.format;
    if (sensitive && !fits(format, layer.in_features)) {
      format.group_size = 32;
      if (!fits(format, layer.in_features)) {
        continue; // a router is small
      }
    }
    check_fits(format, layer_key(spec, layer.name), layer.in_features);
    plan.emplace(layer.name, format);
  }
  return plan;
}

} // namespace temper
