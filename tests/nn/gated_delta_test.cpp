// Against transformers: tests/golden/make_gated_delta_fixtures.py made the fixtures.
#include "temper/nn/gated_delta.h"

#include <mlx/io.h>

#include "nn/support.h"
#include "temper/base/error.h"

using namespace temper;
using namespace temper::test;

namespace {

constexpr int kKeyHeads = 2;
constexpr int kHeads = 4;
constexpr int kKeyFeatures = 6;
constexpr int kValueFeatures = 5;

// Heads that forget within tokens beside ones that keep hundreds.
GatedDeltaInput make_input(int rows, int tokens, const std::string& name = "") {
  const auto rates = mx::array({0.002F, 0.05F, 0.8F, 14.0F}, {kHeads});
  const auto raw = randn({rows, tokens, kHeads}, name + "g");
  return {.q_BTGD = randn({rows, tokens, kKeyHeads, kKeyFeatures}, name + "q"),
          .k_BTGD = randn({rows, tokens, kKeyHeads, kKeyFeatures}, name + "k"),
          .v_BTHV = randn({rows, tokens, kHeads, kValueFeatures}, name + "v"),
          .g_BTH = -rates * mx::logaddexp(raw, mx::array(0.0F)),
          .beta_BTH = mx::sigmoid(2.0F * randn({rows, tokens, kHeads}, name + "beta"))};
}

mx::array make_state(int rows) {
  return randn({rows, kHeads, kKeyFeatures, kValueFeatures}, "state");
}

mx::array tokens_of(const mx::array& x, int begin, int end) {
  auto start = mx::Shape(x.ndim(), 0);
  auto stop = x.shape();
  start[1] = begin;
  stop[1] = end;
  return mx::contiguous(mx::slice(x, start, stop));
}

GatedDeltaInput part(const GatedDeltaInput& in, int begin, int end) {
  auto out = in;
  for (auto* x : {&out.q_BTGD, &out.k_BTGD, &out.v_BTHV, &out.g_BTH, &out.beta_BTH}) {
    *x = tokens_of(*x, begin, end);
  }
  if (in.positions_BT) {
    out.positions_BT = tokens_of(*in.positions_BT, begin, end);
  }
  return out;
}

// Positions of documents of these lengths in one row.
mx::array positions_of(const std::vector<int>& lengths) {
  std::vector<std::int32_t> positions;
  for (const int length : lengths) {
    for (int t = 0; t < length; ++t) {
      positions.push_back(t);
    }
  }
  return mx::array(positions.data(), {1, static_cast<int>(positions.size())}, mx::int32);
}

void check_same(const GatedDeltaResult& got, const GatedDeltaResult& want, float tolerance = 1e-4F) {
  CHECK(max_difference(got.out_BTHV, want.out_BTHV) < tolerance);
  CHECK(max_difference(got.state_BHDV, want.state_BHDV) < tolerance);
}

// The rule as a function of {q, k, v, g, beta, state}; its results in one array.
using Rule = GatedDeltaResult (*)(const GatedDeltaInput&);
Function as_function(Rule rule, const GatedDeltaInput& in) {
  return [rule, in](const Arrays& x) {
    const auto result = rule({x[0], x[1], x[2], x[3], x[4], in.positions_BT, x[5], in.recompute});
    return mx::concatenate({mx::flatten(result.out_BTHV), mx::flatten(result.state_BHDV)});
  };
}

void check_same_gradients(const GatedDeltaInput& in) {
  const Arrays inputs{in.q_BTGD, in.k_BTGD, in.v_BTHV, in.g_BTH, in.beta_BTH, make_state(in.q_BTGD.shape(0))};
  const auto got = gradients_of(as_function(gated_delta, in), inputs);
  const auto want = gradients_of(as_function(gated_delta_sequential, in), inputs);
  for (std::size_t i = 0; i < got.size(); ++i) {
    CAPTURE(i);
    CHECK(relative_difference(got[i], want[i]) < 1e-4F);
  }
}

} // namespace

TEST_CASE("the gated delta rule agrees with transformers', forward and backward") {
  const auto fixture = mx::load_safetensors(TEMPER_TEST_DATA "/gated_delta.safetensors").first;
  const auto at = [&](const std::string& name) { return fixture.at(name); };
  const GatedDeltaInput input{at("q"), at("k"), at("v"), at("g"), at("beta"), std::nullopt, at("state")};
  for (const auto rule : {gated_delta, gated_delta_sequential}) {
    check_same(rule(input), {at("chunk.out"), at("chunk.state")}, 1e-5F);
    check_same(rule(input), {at("recurrent.out"), at("recurrent.state")}, 1e-5F);
    const auto f = [&](const Arrays& x) {
      const auto result = rule({x[0], x[1], x[2], x[3], x[4], std::nullopt, x[5]});
      return Arrays{result.out_BTHV, result.state_BHDV};
    };
    const std::vector<std::string> names{"q", "k", "v", "g", "beta", "state"};
    Arrays inputs;
    for (const auto& name : names) {
      inputs.push_back(at(name));
    }
    const auto gradients = mx::vjp(f, inputs, {at("d_out"), at("d_state")}).second;
    for (std::size_t i = 0; i < names.size(); ++i) {
      CAPTURE(names[i]);
      CHECK(relative_difference(gradients[i], at("grad." + names[i])) < 1e-5F);
    }
  }
}

TEST_CASE("the chunked rule agrees with the sequential one at any length") {
  for (const int tokens : {1, 2, 3, 31, 63, 64, 65, 128, 150}) {
    CAPTURE(tokens);
    auto input = make_input(2, tokens);
    check_same(gated_delta(input), gated_delta_sequential(input));
    input.state_BHDV = make_state(2);
    check_same(gated_delta(input), gated_delta_sequential(input));
  }
}

TEST_CASE("the chunked rule's gradients agree with the sequential one's, recomputed or kept") {
  for (const bool recompute : {true, false}) {
    auto input = make_input(2, 100);
    input.recompute = recompute;
    check_same_gradients(input);
  }
}

TEST_CASE("the chunked rule's gradients agree with finite differences") {
  const auto in = make_input(1, 70);
  // g stays below 0 and q, k away from 0 by these steps.
  check_gradients(as_function(gated_delta, in),
                  {in.q_BTGD, in.k_BTGD, in.v_BTHV, in.g_BTH, in.beta_BTH, make_state(1)}, 5e-3F);
}

TEST_CASE("packed documents never see each other through the gated delta rule") {
  const std::vector<std::vector<int>> layouts{
      {64, 64},            // a border on the chunks'
      {63, 65},            // one token before it
      {65, 63},            // one after it
      {1, 1, 1, 125},      // documents of one token
      {62, 1, 1, 1, 63},   // around the border
      {10, 20, 30, 140},   // one over two chunk borders
      {5, 6, 7, 8, 9, 10}, // many within a chunk
      {127, 1},
  };
  for (const auto& lengths : layouts) {
    const auto positions = positions_of(lengths);
    auto input = make_input(1, positions.shape(1));
    input.positions_BT = positions;
    const auto packed = gated_delta(input);
    check_same(packed, gated_delta_sequential(input));
    int begin = 0;
    for (const int length : lengths) {
      CAPTURE(begin);
      auto alone = part(input, begin, begin + length);
      alone.positions_BT = std::nullopt;
      const auto result = gated_delta(alone);
      CHECK(max_difference(tokens_of(packed.out_BTHV, begin, begin + length), result.out_BTHV) < 1e-5F);
      begin += length;
      if (begin == positions.shape(1)) {
        CHECK(max_difference(packed.state_BHDV, result.state_BHDV) < 1e-5F);
      }
    }
    check_same_gradients(input);
  }
}

TEST_CASE("rows of a batch have their own documents, within a checkpointed block too") {
  auto input = make_input(2, 130);
  const auto positions = mx::concatenate({positions_of({70, 60}), positions_of({3, 64, 63})}, 0);
  input.positions_BT = positions;
  check_same(gated_delta(input), gated_delta_sequential(input));
  check_same_gradients(input);

  const Arrays inputs{input.q_BTGD, input.k_BTGD, input.v_BTHV, input.g_BTH, input.beta_BTH, make_state(2)};
  const auto rule = as_function(gated_delta, input);
  const auto block = [&](const Arrays& x) {
    return mx::checkpoint([&](const Arrays& y) { return Arrays{rule(y)}; })(x)[0];
  };
  const auto got = gradients_of(block, inputs);
  const auto want = gradients_of(rule, inputs);
  for (std::size_t i = 0; i < got.size(); ++i) {
    CHECK(same_bits(got[i], want[i]));
  }
}

TEST_CASE("a document gets nothing from large values and steep decays before it") {
  auto input = make_input(1, 100);
  input.positions_BT = positions_of({40, 60});
  const auto clean = gated_delta(input);
  const auto first = mx::less(mx::arange(0, 100, 1, mx::int32), mx::array(40));
  const auto of_first = [&](const mx::array& changed, const mx::array& x, const mx::Shape& shape) {
    return mx::where(mx::reshape(first, shape), changed, x);
  };
  input.g_BTH = of_first(mx::array(-500.0F), input.g_BTH, {1, 100, 1});
  input.v_BTHV = of_first(mx::array(1e30F), input.v_BTHV, {1, 100, 1, 1});
  const auto spoiled = gated_delta(input);
  CHECK(max_difference(tokens_of(spoiled.out_BTHV, 40, 100), tokens_of(clean.out_BTHV, 40, 100)) < 1e-5F);
  CHECK(max_difference(spoiled.state_BHDV, clean.state_BHDV) < 1e-5F);
}

TEST_CASE("a text in several passes gives what one pass gives") {
  auto input = make_input(2, 150);
  input.state_BHDV = make_state(2);
  const auto whole = gated_delta(input);
  for (const auto& borders :
       std::vector<std::vector<int>>{{0, 64, 150}, {0, 1, 100, 101, 150}, {0, 149, 150}}) {
    auto state = input.state_BHDV;
    std::vector<mx::array> outs;
    for (std::size_t i = 0; i + 1 < borders.size(); ++i) {
      auto piece = part(input, borders[i], borders[i + 1]);
      // Positions that go on past the border clear nothing.
      piece.positions_BT = mx::expand_dims(mx::arange(borders[i] + 1, borders[i + 1] + 1, 1, mx::int32), 0);
      piece.state_BHDV = state;
      const auto result = gated_delta(piece);
      outs.push_back(result.out_BTHV);
      state = result.state_BHDV;
    }
    check_same({mx::concatenate(outs, 1), *state}, whole);
  }
}

TEST_CASE("left padding leaves no trace in the state") {
  auto padded = make_input(1, 80);
  std::vector<std::int32_t> positions(80, 0);
  for (int t = 30; t < 80; ++t) {
    positions[static_cast<std::size_t>(t)] = t - 30;
  }
  padded.positions_BT = mx::array(positions.data(), {1, 80}, mx::int32);
  auto alone = part(padded, 30, 80);
  alone.positions_BT = std::nullopt;
  const auto got = gated_delta(padded);
  check_same({tokens_of(got.out_BTHV, 30, 80), got.state_BHDV}, gated_delta(alone), 1e-5F);
}

TEST_CASE("long keys that repeat are solved without cancellation") {
  // beta near 1 and one key over and over: the powers of N reach binomials of 64, its inverse stays small.
  auto input = make_input(1, 256);
  input.k_BTGD = mx::broadcast_to(tokens_of(input.k_BTGD, 0, 1), input.k_BTGD.shape());
  input.beta_BTH = mx::full({1, 256, kHeads}, 0.999F);
  input.g_BTH = mx::full({1, 256, kHeads}, -1e-4F);
  check_same(gated_delta(input), gated_delta_sequential(input));
}

TEST_CASE("the gated delta rule keeps v's dtype and an fp32 state") {
  const auto input = make_input(1, 70);
  auto half = input;
  for (auto* x : {&half.q_BTGD, &half.k_BTGD, &half.v_BTHV}) {
    *x = mx::astype(*x, mx::bfloat16);
  }
  for (const auto rule : {gated_delta, gated_delta_sequential}) {
    const auto result = rule(half);
    CHECK(result.out_BTHV.dtype() == mx::bfloat16);
    CHECK(result.state_BHDV.dtype() == mx::float32);
    CHECK(relative_difference(result.out_BTHV, rule(input).out_BTHV) < 0.05F);
  }
}

TEST_CASE("inputs of the gated delta rule that do not fit are refused with their shapes") {
  const auto message = [](const std::function<void(GatedDeltaInput&)>& spoil, int tokens) {
    return message_of<ModelError>([&] {
      auto input = make_input(1, tokens);
      spoil(input);
      gated_delta(input);
    });
  };
  for (const int tokens : {1, 9}) {
    CHECK(contains(message(
                       [](GatedDeltaInput& in) {
                         in.g_BTH = mx::zeros({1, 2, kHeads});
                       },
                       tokens),
                   "g [1, 2, 4]"));
    CHECK(contains(message(
                       [](GatedDeltaInput& in) {
                         in.q_BTGD = in.k_BTGD = mx::zeros({1, 9, 3, 6});
                       },
                       tokens),
                   "do not fit each other"));
    CHECK(contains(message([](GatedDeltaInput& in) { in.v_BTHV = mx::zeros({5}); }, tokens), "v [5]"));
    CHECK(contains(message(
                       [](GatedDeltaInput& in) {
                         in.state_BHDV = mx::zeros({1, kHeads, 5, 6});
                       },
                       tokens),
                   "should have shape [1, 4, 6, 5], not [1, 4, 5, 6]"));
    CHECK(contains(message([](GatedDeltaInput& in) { in.positions_BT = mx::zeros({8}, mx::int32); }, tokens),
                   "not [8]"));
  }
}

TEST_CASE("the gated norm agrees with transformers', and its gradients with finite differences") {
  const auto fixture = mx::load_safetensors(TEMPER_TEST_DATA "/gated_delta.safetensors").first;
  const Arrays inputs{fixture.at("norm.x"), fixture.at("norm.weight"), fixture.at("norm.gate")};
  const Function f = [](const Arrays& in) { return gated_rms_norm(in[0], in[1], in[2], 1e-6F); };
  CHECK(max_difference(f(inputs), fixture.at("norm.out")) < 1e-5F);
  check_gradients(f, inputs);
  auto half = inputs;
  half[0] = mx::astype(half[0], mx::bfloat16);
  CHECK(f(half).dtype() == mx::bfloat16);
  CHECK(relative_difference(f(half), f(inputs)) < 0.02F);
}
