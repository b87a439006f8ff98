#include "temper/io/gguf_recipe.h"

#include <algorithm>

#include "temper/base/error.h"

namespace temper {
namespace {

bool holds(const std::string& name, const char* part) {
  return name.find(part) != std::string::npos;
}

bool is_quantized(GgufType type) {
  return traits_of(type).block_values > 1;
}

bool stays_float(const std::string& name, const std::vector<std::int64_t>& dims) {
  return dims.size() < 2 || !name.ends_with("weight") || holds(name, "_norm.weight") ||
         holds(name, "ffn_gate_inp") || holds(name, "shortconv.conv") || holds(name, "ssm_conv1d");
}

// The first and last eighth of the layers, and every third between.
bool wants_more_bits(int layer, int num_layers) {
  const int eighth = num_layers / 8;
  return layer < eighth || layer >= 7 * num_layers / 8 || (layer - eighth) % 3 == 2;
}

// Where the model stands while its tensors pass.
struct Progress {
  int num_values = 0; // tensors that make values, in all
  int num_downs = 0;
  int value = 0; // the next one's place
  int down = 0;
};

bool makes_values(const std::string& name) {
  return holds(name, "attn_v.weight") || holds(name, "attn_qkv.weight");
}

GgufType value_type(const GgufRecipe& recipe, const DecoderSpec& spec, Progress& progress) {
  auto type = recipe.base;
  if (recipe.mixed && wants_more_bits(progress.value, progress.num_values)) {
    type = GgufType::q6_k;
  }
  // Llama 70B's values are an eighth of its queries: more bits cost little.
  const bool is_70b =
      spec.model_type == "llama" && spec.num_layers == 80 && spec.num_heads != spec.num_kv_heads;
  if (is_70b && type == GgufType::q4_k) {
    type = GgufType::q5_k;
  }
  ++progress.value;
  return spec.moe.num_experts == 8 ? GgufType::q8_0 : type;
}

GgufType head_type(const GgufRecipe& recipe, std::int64_t row) {
  if (recipe.base == GgufType::q8_0 || row % traits_of(recipe.base).block_values != 0) {
    return GgufType::q8_0;
  }
  return GgufType::q6_k;
}

GgufType wanted_type(const GgufRecipe& recipe, const DecoderSpec& spec, const std::string& name,
                     std::int64_t row, bool tied, Progress& progress) {
  if (name == "output.weight" || (tied && name == "token_embd.weight")) {
    return head_type(recipe, row);
  }
  if (makes_values(name)) {
    return value_type(recipe, spec, progress);
  }
  if (holds(name, "attn_k.weight") && spec.moe.num_experts == 8) {
    return GgufType::q8_0;
  }
  if (holds(name, "ffn_down")) {
    const int layer = progress.down++;
    return recipe.mixed && wants_more_bits(layer, progress.num_downs) ? GgufType::q6_k : recipe.base;
  }
  if (holds(name, "attn_output") && spec.moe.num_experts == 8 && recipe.mixed &&
      recipe.base == GgufType::q4_k) {
    return GgufType::q5_k;
  }
  return recipe.base;
}

// For rows that are no whole blocks.
GgufTypeChoice fitting(GgufType wanted, std::int64_t row) {
  const auto fits = [row](GgufType type) { return row % traits_of(type).block_values == 0; };
  if (fits(wanted)) {
    return {wanted, false};
  }
  const auto smaller = wanted == GgufType::q4_k   ? GgufType::q5_0
                       : wanted == GgufType::q5_k ? GgufType::q5_1
                       : wanted == GgufType::q6_k ? GgufType::q8_0
                                                  : wanted;
  return {fits(smaller) ? smaller : GgufType::f16, true};
}

} // namespace

const std::vector<GgufRecipe>& gguf_recipes() {
  static const std::vector<GgufRecipe> kAll{
      {"f32", GgufType::f32, 0},
      {"f16", GgufType::f16, 1},
      {"bf16", GgufType::bf16, 32},
      {"q8_0", GgufType::q8_0, 7},
      {"q4_0", GgufType::q4_0, 2},
      {"q4_1", GgufType::q4_1, 3},
      {"q5_k_m", GgufType::q5_k, 17, true},
      {"q4_k_m", GgufType::q4_k, 15, true},
      {"q6_k", GgufType::q6_k, 18},
  };
  return kAll;
}

const GgufRecipe& find_gguf_recipe(const std::string& name) {
  std::string known;
  for (const auto& recipe : gguf_recipes()) {
    if (name == recipe.name) {
      return recipe;
    }
    known += (known.empty() ? "" : ", ") + std::string(recipe.name);
  }
  throw ConfigError("no GGUF type '" + name + "': there are " + known);
}

std::vector<GgufTypeChoice> choose_types(const GgufRecipe& recipe, const DecoderSpec& spec,
                                         const std::vector<std::string>& names,
                                         const std::vector<std::vector<std::int64_t>>& dims) {
  Progress progress;
  progress.num_values = static_cast<int>(std::count_if(names.begin(), names.end(), makes_values));
  progress.num_downs = static_cast<int>(std::count_if(names.begin(), names.end(), [](const auto& name) {
    return holds(name, "ffn_down") && name.ends_with("weight");
  }));
  const bool tied = std::find(names.begin(), names.end(), "output.weight") == names.end();
  std::vector<GgufTypeChoice> choices;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (stays_float(names[i], dims[i])) {
      choices.push_back({GgufType::f32, false});
    } else if (!is_quantized(recipe.base)) {
      choices.push_back({recipe.base, false});
    } else {
      const auto row = dims[i].front();
      choices.push_back(fitting(wanted_type(recipe, spec, names[i], row, tied, progress), row));
    }
  }
  return choices;
}

} // namespace temper
