// Mixture of experts: which experts a token goes to, and linear layers stacked by expert.
// Sources: Shazeer et al. 2017, arXiv:1701.06538 (sparsely gated experts); Fedus et al. 2021, arXiv:2101.03961,
// eq. 4 (load balance). Tensors are laid out as mlx-lm's SwitchLinear and LoRASwitchLinear have them.
// Dims: E experts, K chosen a token, N tokens (all leading dims), P = N K (token, choice) pairs,
//       I in_features, O out_features, R rank, ... any leading dims.
//
//   const auto routes = route({.num_chosen = 4, .renormalize = true}, logits);   // router logits [..., E]
//   const auto order = order_experts(routes.experts);
//   const auto rows = expert_rows(order, x);                                     // [..., I] -> [P, I]
//   const auto h = glu(act, expert_linear(gate, order, rows), expert_linear(up, order, rows));
//   const auto y = combine_experts(order, expert_linear(down, order, h), routes.weights); // [..., O]
// In a part of a block that is recomputed (recompute.h) a `kept` is given to all, and what leaves is the same
// without need of the down products: their inputs are weighed, not their results.
//   const auto y = sum_choices(order, expert_linear(down, order, weighed_rows(order, h, routes.weights)));
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "temper/nn/lora.h"
#include "temper/nn/params.h"
#include "temper/nn/recompute.h"
#include "temper/quant/packed.h"

namespace temper {

struct RoutingSpec {
  int num_chosen = 1; // K
  // true: the chosen weights sum to 1. That is mixtral's and gpt_oss's softmax over the chosen logits, and the
  // same as qwen3_moe's with norm_topk_prob and qwen3_5_moe's. false: the softmax over all experts, as it is.
  bool renormalize = true;
};

struct Routes {
  mx::array experts; // uint32 [..., K], the best first; equal logits: the lower expert first
  mx::array weights; // fp32 [..., K], differentiable in the logits
};

// The K best experts of logits [..., E] (a router's bias is part of them); softmax in fp32. The choice is kept,
// or found there. Lazy. Throws ModelError if K is not in [1, E].
Routes route(const RoutingSpec& spec, const mx::array& logits, Kept* kept = nullptr);

// E sum_e f_e P_e, fp32 scalar, without gradient: f_e the share of pairs that went to expert e, P_e the mean
// router probability of it. 1: perfectly balanced; E: all on one. `real` (bool [...], the logits' leading
// dims): tokens that count; 1 if there are none. Lazy.
mx::array load_balance(const mx::array& logits, const Routes& routes,
                       const std::optional<mx::array>& real = std::nullopt);

// The pairs in the order of their experts, so that an expert's weights are read once; made once for the linears
// of a layer. Few pairs stay as they are.
struct ExpertOrder {
  mx::array experts_P;                // uint32: each place's expert; ascending if `order_P` is there
  std::optional<mx::array> order_P;   // int32: the pair at each place
  std::optional<mx::array> inverse_P; // int32: the place of each pair
  mx::Shape leading;                  // the tokens' dims, N in all
  int num_chosen = 1;                 // K
};

// `experts` [..., K]. The order is kept, or found there. Lazy.
ExpertOrder order_experts(const mx::array& experts, Kept* kept = nullptr);

// Each pair's token: x [..., I] -> [P, I]. Lazy; differentiable, by gathers only (deterministic everywhere).
mx::array expert_rows(const ExpertOrder& order, const mx::array& x);

// The inverse: y [P, O] summed over each token's pairs by `weights` [..., K] -> [..., O], in y's dtype. Lazy;
// differentiable in y and weights.
mx::array combine_experts(const ExpertOrder& order, const mx::array& y_PO, const mx::array& weights);

// Each pair's row of x [P, I] times its weight of `weights` [..., K], in x's dtype. Lazy; differentiable in
// both.
mx::array weighed_rows(const ExpertOrder& order, const mx::array& x_PI, const mx::array& weights);

// y [P, O] summed over each token's pairs -> [..., O]. Lazy; differentiable.
mx::array sum_choices(const ExpertOrder& order, const mx::array& y_PO);

// `bias` [E, O], each token's by the `weights` [..., K] of its `experts`: [..., O], in `dtype`. Lazy;
// differentiable in bias and weights.
mx::array weighed_bias(const Routes& routes, const mx::array& bias_EO, mx::Dtype dtype);

// One linear layer of every expert.
struct ExpertWeights {
  mx::array weight;                      // [E, O, I], or packed: uint32 [E, O, I bits / 32]
  std::optional<mx::array> bias;         // [E, O]
  std::optional<mx::array> scales;       // packed: [E, O, I / group_size]
  std::optional<mx::array> quant_biases; // packed in mode affine: as scales
  QuantFormat packing;                   // read if `scales` is there
  std::optional<mx::array> lora_a;       // [E, R, I]
  std::optional<mx::array> lora_b;       // [E, O, R]
};

// x_p W_e^T + bias_e (+ scale dropout(x_p) A_e^T B_e^T) for x [P, I] -> [P, O], e the expert of place p; in
// x's dtype. `dropout_key`: uint32 [2], none outside training.
// Lazy; differentiable in x, dense weight, bias and LoRA factors. A packed weight has no gradient; where there
// are many pairs it is unpacked for a dense product, again in the backward pass, so that no dense copy waits.
// `kept`: the result is kept, or found there. Throws ModelError, with the shapes, if they disagree.
mx::array expert_linear(const ExpertWeights& weights, const ExpertOrder& order, const mx::array& x_PI,
                        const LoraConfig& lora = {}, const std::optional<mx::array>& dropout_key = std::nullopt,
                        Kept* kept = nullptr);

// Fresh factors, fp32, for expert layers of shape [E, O, I] by name: A [E, R, I] uniform in +-1/sqrt(I) as
// mlx-lm draws it, B [E, O, R] zero. The key of a layer depends on `seed` and its name only. Evaluated.
Params init_expert_lora(const LoraConfig& config, const std::vector<std::pair<std::string, mx::Shape>>& layers,
                        std::uint64_t seed);

// The merged weight W + scale B A, for dense W [E, O, I], in W's dtype. Lazy.
mx::array merge_expert_lora(const LoraConfig& config, const mx::array& lora_a, const mx::array& lora_b,
                            const mx::array& weight);

} // namespace temper
