#include "temper/io/combine_adapters.h"

#include <algorithm>
#include <cmath>

#include "temper/base/error.h"
#include "temper/models/adapter_params.h"
#include "temper/models/tensors.h"
#include "temper/nn/low_rank.h"

namespace temper {
namespace {

// Where the rank is in a layer's factors: [I, R] and [R, O], of experts [X, R, I] and [X, O, R].
int rank_axis(const mx::array& factor, bool is_a) {
  return factor.ndim() == 3 ? (is_a ? 1 : 2) : (is_a ? 1 : 0);
}

void check_parts(const std::vector<WeightedAdapter>& parts) {
  for (const auto& part : parts) {
    if (part.adapter.fine_tune_type == "full") {
      throw ConfigError(part.name + ": is a model trained whole, which cannot be weighed against adapters");
    }
    if (part.adapter.lora.dora) {
      throw ConfigError(part.name +
                        ": is DoRA, whose magnitudes rescale the sum of base and update: updates of " +
                        "several cannot be added or weighed; fuse it into the model (temper fuse) instead");
    }
  }
}

// The weighted average of a tensor trained whole.
mx::array average(const std::vector<WeightedAdapter>& parts, const std::string& tensor) {
  float total = 0.0F;
  auto sum = mx::array(0.0F);
  for (const auto& part : parts) {
    const auto it = part.adapter.params.find(tensor);
    if (it == part.adapter.params.end()) {
      throw ConfigError(part.name + ": has no " + tensor +
                        ", which another adapter trained whole; only what all " + "have can be averaged");
    }
    sum = sum + part.weight * it->second;
    total += part.weight;
  }
  if (std::abs(total - 1.0F) > 1e-4F) {
    throw ConfigError("--weight: " + tensor +
                      " was trained whole and is averaged, so the weights must add up to " + "1, not " +
                      std::to_string(total));
  }
  return sum;
}

void add_layer(const std::vector<WeightedAdapter>& parts, const std::string& layer, Adapter& sum) {
  std::vector<mx::array> as;
  std::vector<mx::array> bs;
  for (const auto& part : parts) {
    if (const auto a = part.adapter.params.find(layer + ".lora_a"); a != part.adapter.params.end()) {
      as.push_back(a->second);
      bs.push_back(part.adapter.params.at(layer + ".lora_b") *
                   (part.weight * part.adapter.lora.of(layer).scale));
    }
  }
  if (as.empty()) {
    return;
  }
  const auto a = mx::concatenate(as, rank_axis(as.front(), true));
  sum.params.insert_or_assign(layer + ".lora_a", a);
  sum.params.insert_or_assign(layer + ".lora_b", mx::concatenate(bs, rank_axis(bs.front(), false)));
  sum.lora.layers[layer] = {a.shape(rank_axis(a, true)), 1.0F};
}

// The rank that most layers have, as the common one; the others stay apart.
void settle_ranks(LoraConfig& lora) {
  std::map<int, int> counts;
  for (const auto& [layer, own] : lora.layers) {
    ++counts[own.rank];
  }
  for (const auto& [rank, count] : counts) {
    if (count >= counts[lora.rank]) {
      lora.rank = rank;
    }
  }
  std::erase_if(lora.layers, [&](const auto& entry) {
    return entry.second.rank == lora.rank && entry.second.scale == lora.scale;
  });
}

// One layer, or an expert of it.
struct Lowered {
  LoraPair pair;
  double squares = 0;
  double lost = 0;
};

Lowered lower(const LoraPair& pair, float scale, int rank) {
  auto found = lower_rank(pair, rank);
  const double square = static_cast<double>(scale) * scale;
  return {found.pair, square * found.squares, square * found.lost_squares};
}

Lowered lower_experts(const LoraPair& pair, float scale, int rank) {
  std::vector<mx::array> as;
  std::vector<mx::array> bs;
  Lowered all{pair};
  for (int expert = 0; expert < pair.a.shape(0); ++expert) {
    const auto one = lower(
        {mx::transpose(mx::take(pair.a, expert, 0)), mx::transpose(mx::take(pair.b, expert, 0))}, scale, rank);
    as.push_back(mx::transpose(one.pair.a));
    bs.push_back(mx::transpose(one.pair.b));
    all.squares += one.squares;
    all.lost += one.lost;
  }
  all.pair = {mx::stack(as), mx::stack(bs)};
  return all;
}

mx::array widened(const mx::array& factor, int axis, int rank) {
  auto shape = factor.shape();
  auto& missing = shape[static_cast<std::size_t>(axis)];
  missing = rank - missing;
  return missing == 0 ? factor : mx::concatenate({factor, mx::zeros(shape)}, axis);
}

} // namespace

Adapter combine_adapters(const std::vector<WeightedAdapter>& parts, const DecoderSpec& spec) {
  if (parts.size() == 1 && parts.front().weight == 1.0F) {
    return parts.front().adapter;
  }
  check_parts(parts);
  Adapter sum{"lora", -1, {}, {}};
  sum.lora.scale = 1.0F;
  for (const auto& part : parts) {
    sum.lora.dropout = std::max(sum.lora.dropout, part.adapter.lora.dropout);
    for (const auto& [name, array] : part.adapter.params) {
      if (!is_adapter_tensor(name)) {
        sum.params.insert_or_assign(name, average(parts, name));
      }
    }
  }
  for (const auto& layer : matrix_layers(spec)) {
    add_layer(parts, layer.name, sum);
  }
  settle_ranks(sum.lora);
  return sum;
}

double lower_ranks(Adapter& adapter, const DecoderSpec& spec, int rank, const std::function<void()>& progress) {
  double squares = 0;
  double lost = 0;
  std::map<std::string, LayerRank> layers;
  for (const auto& layer : matrix_layers(spec)) {
    const auto a = adapter.params.find(layer.name + ".lora_a");
    if (a == adapter.params.end()) {
      continue;
    }
    progress();
    auto& b = adapter.params.at(layer.name + ".lora_b");
    const float scale = adapter.lora.of(layer.name).scale;
    const auto found =
        layer.num_experts > 0 ? lower_experts({a->second, b}, scale, rank) : lower({a->second, b}, scale, rank);
    a->second = found.pair.a;
    b = found.pair.b;
    layers[layer.name] = {found.pair.a.shape(rank_axis(found.pair.a, true)), scale};
    squares += found.squares;
    lost += found.lost;
  }
  adapter.lora.layers = std::move(layers);
  settle_ranks(adapter.lora);
  mx::eval(values(adapter.params));
  return squares > 0 ? std::sqrt(lost / squares) : 0.0;
}

Adapter uniform_adapter(const Adapter& adapter) {
  auto uniform = adapter;
  auto& lora = uniform.lora;
  int most = 0;
  for (const auto& [name, array] : adapter.params) {
    if (name.ends_with(".lora_a")) {
      most = std::max(most, array.shape(rank_axis(array, true)));
    }
  }
  lora.rank = most > 0 ? most : lora.rank;
  lora.layers.clear();
  for (auto& [name, array] : uniform.params) {
    const bool is_a = name.ends_with(".lora_a");
    if (is_a || name.ends_with(".lora_b")) {
      array = widened(array, rank_axis(array, is_a), lora.rank);
    }
    if (name.ends_with(".lora_b")) {
      array = array * (adapter.lora.of(name.substr(0, name.rfind('.'))).scale / lora.scale);
    }
  }
  return uniform;
}

} // namespace temper
