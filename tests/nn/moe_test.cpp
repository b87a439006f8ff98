#include "temper/nn/moe.h"

#include <algorithm>

#include "nn/support.h"
#include "temper/base/error.h"
#include "temper/nn/activation.h"
#include "temper/nn/host_op.h"

using namespace temper;
using namespace temper::test;

namespace {

constexpr int kExperts = 5;
constexpr int kOut = 6;
constexpr int kIn = 4;
constexpr int kRank = 2;
constexpr int kChosen = 2;

// Switches the host kernels off for a scope, so that MLX's own products run.
class PlainTwins {
 public:
  PlainTwins() {
    set_host_kernels(false);
  }
  ~PlainTwins() {
    set_host_kernels(true);
  }
  PlainTwins(const PlainTwins&) = delete;
  PlainTwins& operator=(const PlainTwins&) = delete;
};

// Experts of `tokens` tokens; expert 3 gets none.
mx::array chosen_experts(int tokens) {
  std::vector<std::uint32_t> experts;
  for (int n = 0; n < tokens; ++n) {
    const auto first = static_cast<std::uint32_t>(n * 7 % 3);
    experts.push_back(n % 4 == 0 ? 4U : first);
    experts.push_back(n % 4 == 0 ? first : 4U);
  }
  return mx::array(experts.data(), {1, tokens, kChosen}, mx::uint32);
}

ExpertWeights expert_weights() {
  return {.weight = randn({kExperts, kOut, kIn}, "weight"),
          .bias = randn({kExperts, kOut}, "bias"),
          .scales = std::nullopt,
          .quant_biases = std::nullopt,
          .packing = {},
          .lora_a = randn({kExperts, kRank, kIn}, "a"),
          .lora_b = randn({kExperts, kOut, kRank}, "b")};
}

const LoraConfig kLora{.rank = kRank, .scale = 1.5F};

// Pair by pair: each one's matrices taken out and applied. -> [N, K, O]
mx::array pair_by_pair(const ExpertWeights& w, const mx::array& experts, const mx::array& x_NI) {
  std::vector<mx::array> rows;
  mx::eval(experts);
  for (int pair = 0; pair < static_cast<int>(experts.size()); ++pair) {
    const int expert = static_cast<int>(experts.data<std::uint32_t>()[pair]);
    const auto of = [&](const mx::array& stacked) { return mx::take(stacked, expert, 0); };
    const auto x = mx::take(x_NI, pair / kChosen, 0);
    auto y = mx::matmul(of(w.weight), x);
    if (w.bias) {
      y = y + of(*w.bias);
    }
    if (w.lora_a) {
      y = y + kLora.scale * mx::matmul(of(*w.lora_b), mx::matmul(of(*w.lora_a), x));
    }
    rows.push_back(y);
  }
  return mx::reshape(mx::stack(rows), {-1, kChosen, w.weight.shape(1)});
}

// What a layer gives, for inputs {x, weights of the pairs, weight, bias, lora_a, lora_b}.
mx::array layer(const mx::array& experts, const Arrays& in) {
  const ExpertWeights w{in[2], in[3], std::nullopt, std::nullopt, {}, in[4], in[5]};
  const auto order = order_experts(experts);
  return combine_experts(order, expert_linear(w, order, expert_rows(order, in[0]), kLora), in[1]);
}

mx::array direct_layer(const mx::array& experts, const Arrays& in) {
  const ExpertWeights w{in[2], in[3], std::nullopt, std::nullopt, {}, in[4], in[5]};
  const auto y_NKO = pair_by_pair(w, experts, mx::reshape(in[0], {-1, kIn}));
  const auto y = mx::sum(y_NKO * mx::reshape(in[1], {-1, kChosen, 1}), 1);
  return mx::reshape(y, {in[0].shape(0), in[0].shape(1), kOut});
}

Arrays layer_inputs(int tokens) {
  const auto w = expert_weights();
  return {randn({1, tokens, kIn}, "x"),
          randn({1, tokens, kChosen}, "pairs"),
          w.weight,
          *w.bias,
          *w.lora_a,
          *w.lora_b};
}

void check_layer(int tokens) {
  CAPTURE(tokens);
  const auto experts = chosen_experts(tokens);
  const auto inputs = layer_inputs(tokens);
  const Function ours = [&](const Arrays& in) { return layer(experts, in); };
  const Function direct = [&](const Arrays& in) { return direct_layer(experts, in); };
  CHECK(max_difference(ours(inputs), direct(inputs)) < 1e-4F);
  const auto got = gradients_of(ours, inputs);
  const auto want = gradients_of(direct, inputs);
  for (std::size_t i = 0; i < got.size(); ++i) {
    CAPTURE(i);
    CHECK(relative_difference(got[i], want[i]) < 1e-5F);
  }
}

} // namespace

TEST_CASE("routing takes the best experts by softmax, over the chosen or over all") {
  const auto logits = randn({3, 7, kExperts}, "logits");
  const auto all = mx::softmax(logits, -1);
  const auto best = mx::slice(mx::argsort(-logits, -1), {0, 0, 0}, {3, 7, 3});
  const auto plain = route({.num_chosen = 3, .renormalize = false}, logits);
  CHECK(same_bits(plain.experts, best));
  CHECK(max_difference(plain.weights, mx::take_along_axis(all, best, -1)) < 1e-6F);
  const auto renormalized = route({.num_chosen = 3, .renormalize = true}, logits);
  CHECK(same_bits(renormalized.experts, best));
  CHECK(max_difference(renormalized.weights, plain.weights / mx::sum(plain.weights, -1, true)) < 1e-6F);
}

TEST_CASE("routing of equal logits takes the lower expert first") {
  const auto logits = mx::array({1.0F, 2.0F, 2.0F, 2.0F, 1.0F}, {1, kExperts});
  CHECK(same_bits(route({.num_chosen = 4}, logits).experts, mx::array({1U, 2U, 3U, 0U}, {1, 4}, mx::uint32)));
}

TEST_CASE("routing is fp32 from half logits, and its gradients agree with finite differences") {
  const auto logits = randn({9, kExperts}, "logits");
  CHECK(route({.num_chosen = 2}, mx::astype(logits, mx::bfloat16)).weights.dtype() == mx::float32);
  for (const bool renormalize : {true, false}) {
    // Spread out, so that no small step changes the choice.
    const auto spread = mx::argsort(logits, -1) * 0.5F + 0.01F * logits;
    check_gradients(
        [&](const Arrays& in) { return route({.num_chosen = 2, .renormalize = renormalize}, in[0]).weights; },
        {spread});
  }
}

TEST_CASE("a router that chooses none or more experts than there are is refused") {
  const auto choose = [](int count) {
    return message_of<ModelError>([count] { route({.num_chosen = count}, mx::zeros({2, 4})); });
  };
  CHECK(contains(choose(0), "cannot choose 0 of 4 experts"));
  CHECK(contains(choose(5), "cannot choose 5 of 4 experts"));
}

TEST_CASE("the load balance is 1 when balanced, E when all is on one, over real tokens only") {
  // Token n prefers experts n and n + 1.
  std::vector<float> logits;
  for (int n = 0; n < 4; ++n) {
    for (int e = 0; e < 4; ++e) {
      logits.push_back(e == n ? 8.0F : (e == (n + 1) % 4 ? 7.0F : 0.0F));
    }
  }
  const auto even = mx::array(logits.data(), {1, 4, 4}, mx::float32);
  const RoutingSpec spec{.num_chosen = 2};
  auto balance = load_balance(even, route(spec, even));
  CHECK(balance.dtype() == mx::float32);
  CHECK(balance.shape() == mx::Shape{});
  CHECK(balance.item<float>() == doctest::Approx(1.0F));

  const auto one = mx::array({30.0F, 0.0F, 0.0F, 0.0F}, {1, 1, 4});
  const auto alike = mx::contiguous(mx::broadcast_to(one, {2, 6, 4}));
  CHECK(load_balance(alike, route({.num_chosen = 1}, alike)).item<float>() == doctest::Approx(4.0F));

  // Only token 0 is real: experts 0 and 1 get one pair each, with the probabilities of its softmax.
  const auto real = mx::array({true, false, false, false}, {1, 4});
  const auto p = mx::softmax(mx::array({8.0F, 7.0F, 0.0F, 0.0F}, {4}));
  const float expected = 4 * 0.5F * (mx::take(p, 0).item<float>() + mx::take(p, 1).item<float>());
  CHECK(load_balance(even, route(spec, even), real).item<float>() == doctest::Approx(expected));
  CHECK(load_balance(even, route(spec, even), mx::zeros({1, 4}, mx::bool_)).item<float>() == 1.0F);
}

TEST_CASE("the load balance has no gradient") {
  const auto gradient =
      gradients_of([](const Arrays& in) { return load_balance(in[0], route({.num_chosen = 2}, in[0])); },
                   {randn({6, 4}, "l")});
  CHECK(mx::max(mx::abs(gradient[0])).item<float>() == 0.0F);
}

TEST_CASE("expert layers agree with each pair's own matrices, few pairs and many, forward and backward") {
  for (const int tokens : {3, 50}) {
    check_layer(tokens);
  }
}

TEST_CASE("expert layers agree with each pair's own matrices through MLX's products too") {
  const PlainTwins plain;
  for (const int tokens : {3, 50}) {
    check_layer(tokens);
  }
}

TEST_CASE("expert layers are the same bit for bit each time") {
  const auto experts = chosen_experts(50);
  const auto inputs = layer_inputs(50);
  const Function f = [&](const Arrays& in) { return layer(experts, in); };
  const auto first = gradients_of(f, inputs);
  const auto second = gradients_of(f, inputs);
  for (std::size_t i = 0; i < first.size(); ++i) {
    CHECK(same_bits(first[i], second[i]));
  }
}

TEST_CASE("expert layers compute in half precision on a CPU") {
  const auto experts = chosen_experts(50);
  const auto inputs = layer_inputs(50);
  auto half = inputs;
  half[0] = mx::astype(inputs[0], mx::bfloat16);
  const auto y = layer(experts, half);
  CHECK(y.dtype() == mx::bfloat16);
  CHECK(relative_difference(y, layer(experts, inputs)) < 0.03F);
}

TEST_CASE("dropout falls on the input of the experts' A alone, by the key given") {
  const auto order = order_experts(chosen_experts(50));
  const auto rows = expert_rows(order, randn({50, kIn}, "x"));
  const auto w = expert_weights();
  const LoraConfig config{.rank = kRank, .scale = 1.5F, .dropout = 0.5F};
  const auto key = named_key(1, "key");
  auto bare = w;
  bare.lora_a = bare.lora_b = std::nullopt;
  auto update = w;
  update.weight = mx::zeros_like(w.weight);
  update.bias = std::nullopt;
  const auto expected =
      expert_linear(bare, order, rows) + expert_linear(update, order, dropout(rows, 0.5F, key), kLora);
  CHECK(max_difference(expert_linear(w, order, rows, config, key), expected) < 1e-5F);
  CHECK(same_bits(expert_linear(w, order, rows, config), expert_linear(w, order, rows, kLora)));
}

TEST_CASE("merging gives the layer that the experts' LoRA computes") {
  const auto order = order_experts(chosen_experts(50));
  const auto rows = expert_rows(order, randn({50, kIn}, "x"));
  const auto w = expert_weights();
  auto merged = w;
  merged.weight = merge_expert_lora(kLora, *w.lora_a, *w.lora_b, w.weight);
  merged.lora_a = merged.lora_b = std::nullopt;
  CHECK(max_difference(expert_linear(merged, order, rows), expert_linear(w, order, rows, kLora)) < 1e-4F);
}

TEST_CASE("fresh expert factors change nothing and depend on seed and name alone") {
  const LoraConfig config{.rank = 8};
  const auto made = init_expert_lora(config, {{"one", {3, 5, 100}}, {"two", {3, 5, 100}}}, 3);
  CHECK(made.at("one.lora_a").shape() == mx::Shape{3, 8, 100});
  CHECK(made.at("one.lora_b").shape() == mx::Shape{3, 5, 8});
  CHECK(mx::max(mx::abs(made.at("one.lora_b"))).item<float>() == 0.0F);
  CHECK(mx::max(mx::abs(made.at("one.lora_a"))).item<float>() <= 0.1F); // 1 / sqrt(100)
  CHECK(mx::max(mx::abs(made.at("one.lora_a"))).item<float>() > 0.098F);
  CHECK_FALSE(same_bits(made.at("one.lora_a"), made.at("two.lora_a")));
  CHECK(same_bits(made.at("two.lora_a"), init_expert_lora(config, {{"two", {3, 5, 100}}}, 3).at("two.lora_a")));
}

namespace {

struct Mode {
  const char* mode;
  int bits;
  int group_size;
};

const std::vector<Mode> kModes{{"affine", 3, 64}, {"affine", 4, 32}, {"affine", 8, 64},
                               {"mxfp4", 4, 32},  {"mxfp8", 8, 32},  {"nvfp4", 4, 16}};

// A packed layer [E, 6, 64], and its dense weight.
std::pair<ExpertWeights, mx::array> packed_weights(const Mode& mode) {
  const auto dense = randn({kExperts, kOut, 64}, "packed");
  const auto parts = mx::quantize(dense, mode.group_size, mode.bits, mode.mode);
  auto w = expert_weights();
  w.weight = parts[0];
  w.scales = parts[1];
  w.quant_biases = parts.size() > 2 ? std::optional(parts[2]) : std::nullopt;
  w.packing = {mode.mode, mode.bits, mode.group_size};
  w.lora_a = randn({kExperts, kRank, 64}, "wide a");
  const auto unpacked = mx::dequantize(parts[0], parts[1], w.quant_biases, mode.group_size, mode.bits,
                                       mode.mode, std::nullopt, mx::float32);
  return {w, unpacked};
}

} // namespace

TEST_CASE("packed experts compute what their unpacked weights do, few pairs and many, forward and backward") {
  for (const auto& mode : kModes) {
    for (const int tokens : {3, 50}) {
      CAPTURE(mode.mode);
      CAPTURE(mode.bits);
      CAPTURE(tokens);
      const auto [packed, unpacked] = packed_weights(mode);
      auto dense = packed;
      dense.weight = unpacked;
      dense.scales = dense.quant_biases = std::nullopt;
      const auto order = order_experts(chosen_experts(tokens));
      const auto apply = [&](const ExpertWeights& w, const Arrays& in) {
        auto adapted = w;
        adapted.lora_a = in[1];
        adapted.lora_b = in[2];
        return expert_linear(adapted, order, expert_rows(order, in[0]), kLora);
      };
      const Function ours = [&, w = packed](const Arrays& in) { return apply(w, in); };
      const Function direct = [&](const Arrays& in) { return apply(dense, in); };
      const Arrays inputs{randn({tokens, 64}, "x"), *packed.lora_a, *packed.lora_b};
      CHECK(relative_difference(ours(inputs), direct(inputs)) < 1e-4F);
      const auto got = gradients_of(ours, inputs);
      const auto want = gradients_of(direct, inputs);
      for (std::size_t i = 0; i < got.size(); ++i) {
        CHECK(relative_difference(got[i], want[i]) < 1e-4F);
      }
    }
  }
}

TEST_CASE("expert tensors that do not fit are refused with their shapes") {
  const auto order = order_experts(chosen_experts(3));
  const auto message = [&](const std::function<void(ExpertWeights&)>& spoil) {
    return message_of<ModelError>([&] {
      auto w = expert_weights();
      spoil(w);
      expert_linear(w, order, mx::zeros({6, kIn}), kLora);
    });
  };
  CHECK(message([](ExpertWeights&) {}).empty());
  CHECK(contains(message([](ExpertWeights& w) {
                   w.weight = mx::zeros({kExperts, kOut, 3});
                 }),
                 "it takes 3 features but its input has 4"));
  CHECK(contains(message([](ExpertWeights& w) { w.weight = mx::zeros({kOut, kIn}); }), "[6, 4]"));
  CHECK(contains(message([](ExpertWeights& w) {
                   w.bias = mx::zeros({4, kOut});
                 }),
                 "bias [4, 6] should be [5, 6]"));
  CHECK(contains(message([](ExpertWeights& w) { w.lora_a = mx::zeros({4, kRank, kIn}); }), "[4, 2, 4]"));
  CHECK(contains(message([](ExpertWeights& w) { w.lora_b = std::nullopt; }), "come together"));
  CHECK(contains(message_of<ModelError>([&] {
                   auto [w, dense] = packed_weights(kModes[1]);
                   w.scales = mx::zeros({kExperts, kOut, 1});
                   expert_linear(w, order, mx::zeros({6, 64}));
                 }),
                 "scales [5, 6, 1] should be [5, 6, 2]"));
}

TEST_CASE("expert layers give the same bits recomputed") {
  const auto experts = chosen_experts(50);
  const auto inputs = layer_inputs(50);
  const Function plain = [&](const Arrays& in) { return layer(experts, in); };
  const Function checkpointed = [&](const Arrays& in) {
    return mx::checkpoint([&](const Arrays& x) { return Arrays{layer(experts, x)}; })(in)[0];
  };
  const auto want = gradients_of(plain, inputs);
  const auto got = gradients_of(checkpointed, inputs);
  for (std::size_t i = 0; i < got.size(); ++i) {
    CHECK(same_bits(got[i], want[i]));
  }
}
