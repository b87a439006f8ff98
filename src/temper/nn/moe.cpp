#include "temper/nn/moe.h"

#include <cmath>

#include "temper/base/error.h"
#include "temper/nn/expert_matmul.h"
#include "temper/nn/random.h"

namespace temper {
namespace {

using Arrays = std::vector<mx::array>;

// From here on sorting pays for its two gathers.
constexpr int kSortedPairs = 64;
// Unpacking writes and reads each expert's dense weights once, a packed product reads the packed ones once a
// pair: from about this many pairs an expert on, unpacking moves fewer bytes.
constexpr int kUnpackedPairsPerExpert = 8;

RowExperts row_experts(const ExpertOrder& order) {
  return {order.experts_P, order.order_P.has_value()};
}

mx::Shape with_features(mx::Shape leading, int features) {
  leading.push_back(features);
  return leading;
}

// x's rows by `index`, each row of x `copies` times; `inverse` holds the places of each row's copies, so that
// the gradient is a gather too: deterministic, and faster than a scatter-add.
mx::array gather_rows(const mx::array& x, const mx::array& index, const mx::array& inverse, int copies) {
  const auto forward = [](const Arrays& in) { return Arrays{mx::take(in[0], in[1], 0)}; };
  const auto backward = [copies](const Arrays& in, const Arrays& cotangents, const Arrays&) {
    auto rows = mx::take(cotangents[0], in[2], 0);
    if (copies > 1) {
      rows = mx::sum(mx::unflatten(rows, 0, {-1, copies}), 1);
    }
    return Arrays{rows, mx::zeros_like(in[1]), mx::zeros_like(in[2])};
  };
  return mx::custom_vjp(forward, backward)({x, index, inverse})[0];
}

void check_layer(const ExpertWeights& w, const mx::array& x) {
  const auto refuse = [&](const std::string& what) {
    throw ModelError("expert layer with weight " + shape_text(w.weight.shape()) + ": " + what);
  };
  if (x.ndim() != 2 || w.weight.ndim() != 3) {
    refuse("a weight [experts, out, in] and rows [pairs, in] are needed, not rows " + shape_text(x.shape()));
  }
  const int experts = w.weight.shape(0);
  const int out = w.weight.shape(1);
  const int in = w.scales ? w.weight.shape(2) * 32 / w.packing.bits : w.weight.shape(2);
  if (in != x.shape(1)) {
    refuse("it takes " + std::to_string(in) + " features but its input has " + std::to_string(x.shape(1)));
  }
  const mx::Shape groups{experts, out, in / w.packing.group_size};
  if (w.scales && w.scales->shape() != groups) {
    refuse("scales " + shape_text(w.scales->shape()) + " should be " + shape_text(groups));
  }
  if (w.bias && w.bias->shape() != mx::Shape{experts, out}) {
    refuse("bias " + shape_text(w.bias->shape()) + " should be " + shape_text({experts, out}));
  }
  if (w.lora_a.has_value() != w.lora_b.has_value()) {
    refuse("lora_a and lora_b come together");
  }
  if (w.lora_a) {
    const auto& a = *w.lora_a;
    const auto& b = *w.lora_b;
    if (a.ndim() != 3 || a.shape(0) != experts || a.shape(2) != in ||
        b.shape() != mx::Shape{experts, out, a.shape(1)}) {
      refuse("LoRA factors " + shape_text(a.shape()) + " and " + shape_text(b.shape()) +
             " should be [experts, rank, in] and [experts, out, rank]");
    }
  }
}

mx::array base_product(const ExpertWeights& w, const RowExperts& rows, const mx::array& x) {
  if (!w.scales) {
    return expert_matmul(rows, x, w.weight);
  }
  const PackedWeight packed{w.weight, *w.scales, w.quant_biases, w.packing};
  if (x.shape(0) >= kUnpackedPairsPerExpert * w.weight.shape(0)) {
    return unpacked_product(
        x, packed, [rows](const auto& in, const auto& weight) { return expert_matmul(rows, in, weight); },
        [rows](const auto& cotangent, const auto& weight) {
          return expert_matmul_plain(rows, cotangent, weight);
        });
  }
  const auto& f = packed.format;
  const auto biases = packed.biases ? std::optional(mx::stop_gradient(*packed.biases)) : std::nullopt;
  const auto y = mx::gather_qmm(as_matrices(x), mx::stop_gradient(packed.weight),
                                mx::stop_gradient(packed.scales), biases, std::nullopt, rows.experts_P, true,
                                f.group_size, f.bits, f.mode, std::nullopt, rows.sorted);
  return mx::astype(mx::reshape(y, {y.shape(0), y.shape(2)}), x.dtype());
}

} // namespace

Routes route(const RoutingSpec& spec, const mx::array& logits, Kept* kept) {
  const int experts = logits.shape(-1);
  if (spec.num_chosen < 1 || spec.num_chosen > experts) {
    throw ModelError("a router cannot choose " + std::to_string(spec.num_chosen) + " of " +
                     std::to_string(experts) + " experts");
  }
  const auto scores = mx::astype(logits, mx::float32);
  const auto chosen = kept_or(kept, [&] {
    // MLX's argsort is stable, its argpartition promises no order.
    const auto best_first = mx::argsort(mx::negative(mx::stop_gradient(scores)), -1);
    auto stop = best_first.shape();
    stop.back() = spec.num_chosen;
    // A copy: a kept slice would keep the whole order.
    return mx::contiguous(mx::slice(best_first, mx::Shape(stop.size(), 0), stop));
  });
  if (spec.renormalize) {
    return {chosen, mx::softmax(mx::take_along_axis(scores, chosen, -1), -1)};
  }
  return {chosen, mx::take_along_axis(mx::softmax(scores, -1), chosen, -1)};
}

mx::array load_balance(const mx::array& logits, const Routes& routes, const std::optional<mx::array>& real) {
  const int experts = logits.shape(-1);
  const int chosen = routes.experts.shape(-1);
  const auto probabilities_NE =
      mx::softmax(mx::astype(mx::reshape(mx::stop_gradient(logits), {-1, experts}), mx::float32), -1);
  const int tokens = probabilities_NE.shape(0);
  const auto real_N1 =
      real ? mx::astype(mx::reshape(*real, {tokens, 1}), mx::float32) : mx::ones({tokens, 1}, mx::float32);
  const auto count = mx::sum(real_N1);
  const auto mean_E = mx::sum(probabilities_NE * real_N1, 0) / count;
  // Whole numbers: exact in any order of the additions.
  const auto pairs_E = mx::scatter_add_axis(mx::zeros({experts}, mx::float32), mx::flatten(routes.experts),
                                            mx::flatten(mx::broadcast_to(real_N1, {tokens, chosen})), 0);
  const auto share_E = pairs_E / (count * static_cast<float>(chosen));
  const auto balance = static_cast<float>(experts) * mx::sum(share_E * mean_E);
  return mx::stop_gradient(mx::where(mx::greater(count, mx::array(0.0F)), balance, mx::array(1.0F)));
}

ExpertOrder order_experts(const mx::array& experts, Kept* kept) {
  auto leading = experts.shape();
  const int chosen = leading.back();
  leading.pop_back();
  const auto pairs = mx::flatten(mx::stop_gradient(experts));
  if (pairs.shape(0) < kSortedPairs) {
    return {pairs, std::nullopt, std::nullopt, leading, chosen};
  }
  const auto order = kept_or(kept, [&] { return mx::astype(mx::argsort(pairs), mx::int32); });
  const auto inverse = kept_or(kept, [&] { return mx::astype(mx::argsort(order), mx::int32); });
  return {kept_or(kept, [&] { return mx::take(pairs, order); }), order, inverse, leading, chosen};
}

mx::array expert_rows(const ExpertOrder& order, const mx::array& x) {
  const int features = x.shape(-1);
  const int chosen = order.num_chosen;
  const auto x_NI = mx::reshape(x, {-1, features});
  if (!order.order_P) {
    const auto repeated = mx::broadcast_to(mx::expand_dims(x_NI, 1), {x_NI.shape(0), chosen, features});
    return mx::reshape(repeated, {-1, features});
  }
  return gather_rows(x_NI, mx::floor_divide(*order.order_P, mx::array(chosen)), *order.inverse_P, chosen);
}

mx::array combine_experts(const ExpertOrder& order, const mx::array& y_PO, const mx::array& weights) {
  const int features = y_PO.shape(1);
  const auto pairs = order.order_P ? gather_rows(y_PO, *order.inverse_P, *order.order_P, 1) : y_PO;
  const auto y_NKO = mx::reshape(pairs, {-1, order.num_chosen, features});
  const auto weights_N1K = mx::reshape(mx::astype(weights, y_PO.dtype()), {-1, 1, order.num_chosen});
  return mx::reshape(mx::matmul(weights_N1K, y_NKO), with_features(order.leading, features));
}

mx::array weighed_rows(const ExpertOrder& order, const mx::array& x_PI, const mx::array& weights) {
  const auto pairs_P1 = mx::reshape(mx::astype(weights, x_PI.dtype()), {-1, 1});
  const auto weights_P1 = order.order_P ? gather_rows(pairs_P1, *order.order_P, *order.inverse_P, 1) : pairs_P1;
  const auto forward = [](const Arrays& in) { return Arrays{in[0] * in[1]}; };
  // The weights' gradient is summed by a product, which half precisions accumulate in fp32.
  const auto backward = [](const Arrays& in, const Arrays& cotangents, const Arrays&) {
    const auto& d = cotangents[0];
    const auto ones_I1 = mx::ones({in[0].shape(1), 1}, in[0].dtype());
    return Arrays{d * in[1], mx::matmul(d * in[0], ones_I1)};
  };
  return mx::custom_vjp(forward, backward)({x_PI, weights_P1})[0];
}

mx::array sum_choices(const ExpertOrder& order, const mx::array& y_PO) {
  const auto forward = [order](const Arrays& in) {
    const auto pairs = order.inverse_P ? mx::take(in[0], *order.inverse_P, 0) : in[0];
    const auto y_NO = mx::sum(mx::unflatten(pairs, 0, {-1, order.num_chosen}), 1);
    return Arrays{mx::reshape(y_NO, with_features(order.leading, in[0].shape(1)))};
  };
  const auto backward = [order](const Arrays&, const Arrays& cotangents, const Arrays&) {
    return Arrays{expert_rows(order, cotangents[0])};
  };
  return mx::custom_vjp(forward, backward)({y_PO})[0];
}

mx::array weighed_bias(const Routes& routes, const mx::array& bias_EO, mx::Dtype dtype) {
  const auto experts = mx::arange(0, bias_EO.shape(0), 1, mx::uint32);
  const auto one_hot = mx::astype(mx::equal(mx::expand_dims(routes.experts, -1), experts), dtype);
  const auto weights = mx::expand_dims(mx::astype(routes.weights, dtype), -2); // [..., 1, K]
  return mx::squeeze(mx::matmul(mx::matmul(weights, one_hot), mx::astype(bias_EO, dtype)), -2);
}

mx::array expert_linear(const ExpertWeights& weights, const ExpertOrder& order, const mx::array& x_PI,
                        const LoraConfig& lora, const std::optional<mx::array>& dropout_key, Kept* kept) {
  check_layer(weights, x_PI);
  // In f's inputs: what may train, so that a second run of f has gradients in all of it, and the key.
  Arrays inputs{x_PI};
  const auto place = [&](const std::optional<mx::array>& array) {
    inputs.push_back(array.value_or(mx::array(0.0F)));
    return inputs.size() - 1;
  };
  const bool drops = dropout_key && lora.dropout > 0;
  const auto at_weight = place(weights.scales ? std::nullopt : std::optional(weights.weight));
  const auto at_bias = place(weights.bias);
  const auto at_a = place(weights.lora_a);
  const auto at_b = place(weights.lora_b);
  const auto at_key = place(drops ? dropout_key : std::nullopt);
  const auto f = [=, rows = row_experts(order)](const Arrays& in) {
    const auto& x = in[0];
    auto layer = weights;
    layer.weight = layer.scales ? layer.weight : in[at_weight];
    auto y = base_product(layer, rows, x);
    if (layer.bias) {
      y = y + expert_bias(rows, mx::astype(in[at_bias], x.dtype()));
    }
    if (!layer.lora_a) {
      return y;
    }
    const auto dropped = drops ? dropout(x, lora.dropout, mx::stop_gradient(in[at_key])) : x;
    const auto inner = expert_matmul(rows, dropped, in[at_a]);
    return y + expert_matmul(rows, inner, in[at_b] * lora.scale);
  };
  return kept_result(kept, f, inputs);
}

Params init_expert_lora(const LoraConfig& config, const std::vector<std::pair<std::string, mx::Shape>>& layers,
                        std::uint64_t seed) {
  Params params;
  for (const auto& [name, shape] : layers) {
    const int experts = shape.at(0);
    const int out = shape.at(1);
    const int in = shape.at(2);
    const int rank = config.of(name).rank;
    const float bound = 1.0F / std::sqrt(static_cast<float>(in));
    params.insert_or_assign(name + ".lora_a", mx::random::uniform(-bound, bound, {experts, rank, in},
                                                                  mx::float32, named_key(seed, name)));
    params.insert_or_assign(name + ".lora_b", mx::zeros({experts, out, rank}, mx::float32));
  }
  mx::eval(values(params));
  return params;
}

mx::array merge_expert_lora(const LoraConfig& config, const mx::array& lora_a, const mx::array& lora_b,
                            const mx::array& weight) {
  const auto update = mx::matmul(mx::astype(lora_b, mx::float32), mx::astype(lora_a, mx::float32));
  return mx::astype(mx::astype(weight, mx::float32) + config.scale * update, weight.dtype());
}

} // namespace temper
