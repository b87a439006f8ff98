#include "temper/nn/linear.h"

#include "nn/support.h"
#include "temper/base/error.h"

using namespace temper;
using namespace temper::test;

namespace {

Params layer() {
  return {{"up.weight", randn({5, 4}, "weight")}};
}

mx::array run(const Params& params, const mx::array& x) {
  ForwardContext context{ParamView(params), {.rank = 2, .scale = 3.0F}, {}};
  return linear(context, "up", x);
}

const mx::array kX = randn({2, 3, 4}, "x");

} // namespace

TEST_CASE("a layer is its weight, its bias and its LoRA factors, as far as they exist") {
  auto params = layer();
  auto expected = mx::matmul(kX, mx::transpose(params.at("up.weight")));
  CHECK(max_difference(run(params, kX), expected) < 1e-6F);

  params.emplace("up.bias", randn({5}, "bias"));
  expected = expected + params.at("up.bias");
  CHECK(max_difference(run(params, kX), expected) < 1e-6F);

  params.emplace("up.lora_a", randn({4, 2}, "a"));
  params.emplace("up.lora_b", randn({2, 5}, "b"));
  expected = expected + 3.0F * mx::matmul(mx::matmul(kX, params.at("up.lora_a")), params.at("up.lora_b"));
  CHECK(max_difference(run(params, kX), expected) < 1e-5F);
}

TEST_CASE("a trainable tensor shadows the frozen one of its name") {
  const auto frozen = layer();
  const Params trainable{{"up.weight", mx::zeros({5, 4})}};
  ForwardContext context{ParamView(frozen, &trainable), {}, {}};
  CHECK(mx::max(mx::abs(linear(context, "up", kX))).item<float>() == 0.0F);
}

TEST_CASE("weights are cast to the input's dtype") {
  CHECK(run(layer(), mx::astype(kX, mx::float16)).dtype() == mx::float16);
}

TEST_CASE("each layer draws a dropout key of its own, and none outside training") {
  auto params = layer();
  params.emplace("up.lora_a", randn({4, 2}, "a"));
  params.emplace("up.lora_b", randn({2, 5}, "b"));
  const LoraConfig lora{.rank = 2, .scale = 1.0F, .dropout = 0.5F};
  ForwardContext training{ParamView(params), lora, named_key(1, "step 0")};
  const auto first = linear(training, "up", kX);
  CHECK(training.dropout_site == 1);
  CHECK_FALSE(same_bits(first, linear(training, "up", kX)));
  training.dropout_site = 0;
  CHECK(same_bits(first, linear(training, "up", kX)));

  ForwardContext outside{ParamView(params), lora, {}};
  const auto calm = linear(outside, "up", kX);
  CHECK(outside.dropout_site == 0);
  CHECK(same_bits(calm, linear(outside, "up", kX)));
}

TEST_CASE(
    "DoRA gives the update's rows a magnitude, the bias outside of it, whatever is known of their norms") {
  const auto weight = randn({5, 6}, "w");
  const LoraPair pair{randn({6, 3}, "a"), randn({3, 5}, "b")};
  const auto m = mx::abs(randn({5}, "m"));
  const auto x = randn({2, 4, 6}, "x");
  const LoraConfig lora{.rank = 3, .scale = 0.5F};
  Params params{{"l.weight", weight},
                {"l.bias", randn({5}, "bias")},
                {"l.lora_a", pair.a},
                {"l.lora_b", pair.b},
                {"l.m", m}};
  const auto y = [&] {
    ForwardContext context{ParamView(params), lora, {}};
    return linear(context, "l", x);
  };
  const auto expected = mx::matmul(x, mx::transpose(merge_lora(lora, pair, weight, m))) + params.at("l.bias");
  CHECK(relative_difference(y(), expected) < 1e-5F);
  params.emplace("l.weight_norm", row_norms(weight));
  CHECK(relative_difference(y(), expected) < 1e-5F);
  params.emplace("l.dora_scale", dora_scale(ParamView(params), "l", pair, lora.scale, mx::float32));
  CHECK(relative_difference(y(), expected) < 1e-5F);
}

TEST_CASE("an adapted embedding gives the merged matrix' rows; dropout falls on the update") {
  const auto weight = randn({9, 6}, "w");
  const LoraPair pair{randn({9, 3}, "a"), randn({3, 6}, "b")};
  const LoraConfig lora{.rank = 3, .scale = 0.5F, .dropout = 0.5F};
  const mx::array tokens({4, 0, 4, 8}, {2, 2}, mx::int32);
  Params params{{"e.weight", weight}, {"e.lora_a", pair.a}, {"e.lora_b", pair.b}};
  const auto rows = [&](std::optional<mx::array> key) {
    ForwardContext context{ParamView(params), lora, std::move(key)};
    return embed(context, "e", tokens, 6, mx::float32);
  };
  const auto merged = weight + 0.5F * mx::matmul(pair.a, pair.b);
  CHECK(relative_difference(rows({}), mx::take(merged, tokens, 0)) < 1e-5F);
  const auto base = mx::take(weight, tokens, 0);
  const auto share = (rows(named_key(1, "k")) - base) / (rows({}) - base);
  const auto dropped = mx::abs(share) < mx::array(1e-3F);
  const auto doubled = mx::abs(share - 2.0F) < mx::array(1e-2F);
  CHECK(mx::all(mx::logical_or(dropped, doubled)).item<bool>());
  CHECK(mx::any(dropped).item<bool>());
  CHECK(mx::any(doubled).item<bool>());

  params.emplace("e.m", mx::abs(randn({9}, "m")));
  const auto scaled = merged * mx::expand_dims(params.at("e.m") / row_norms(merged), 1);
  CHECK(relative_difference(rows({}), mx::take(scaled, tokens, 0)) < 1e-5F);
}

TEST_CASE("missing and misshaped tensors are named") {
  const auto params = layer();
  ForwardContext context{ParamView(params), {}, {}};
  CHECK(contains(message_of<ModelError>([&] { linear(context, "down", kX); }), "down.weight"));
  const auto message = message_of<ModelError>([&] { linear(context, "up", mx::zeros({2, 3})); });
  CHECK(contains(message, "up.weight"));
  CHECK(contains(message, "[5, 4]"));
  CHECK(contains(message, "3 features"));

  auto half = params;
  half.emplace("up.lora_a", mx::zeros({4, 2}));
  CHECK(contains(message_of<ModelError>([&] { run(half, kX); }), "up.lora_b"));
}

TEST_CASE("gradients of weight, bias and input agree with finite differences") {
  check_gradients(
      [](const Arrays& in) {
        return run({{"up.weight", in[0]}, {"up.bias", in[1]}}, in[2]);
      },
      {randn({5, 4}, "weight"), randn({5}, "bias"), kX});
}

namespace {

// A packed layer of 64 in and 5 out features, in parts by name, and its dense twin.
std::pair<Params, Params> packed_layer(const QuantFormat& format) {
  const auto packed = quantize(randn({5, 64}, "weight"), format, "up");
  Params params{{"up.weight", packed.weight}, {"up.scales", packed.scales}, {"up.bias", randn({5}, "bias")}};
  if (packed.biases) {
    params.emplace("up.biases", *packed.biases);
  }
  return {params, {{"up.weight", dequantize(packed, mx::float32)}, {"up.bias", params.at("up.bias")}}};
}

} // namespace

TEST_CASE("a packed layer computes what its unpacked weight does, whole, by rows, and as a matrix") {
  for (const QuantFormat& format : {QuantFormat{"affine", 3, 32}, QuantFormat{"mxfp8", 8, 32}}) {
    const auto [packed, dense] = packed_layer(format);
    for (const int rows : {1, 100}) {
      const auto x = randn({2, rows, 64}, "x");
      CHECK(relative_difference(run(packed, x), run(dense, x)) < 1e-5F);
    }
    ForwardContext context{ParamView(packed), {}, {}};
    const auto tokens = mx::array({4, 0, 4}, {3, 1}, mx::int32);
    const auto rows = mx::take(dense.at("up.weight"), tokens, 0);
    CHECK(same_bits(embed(context, "up", tokens, 64, mx::float32), rows));
    CHECK(same_bits(dense_weight(context.params, "up", 64, mx::float32), dense.at("up.weight")));
    CHECK(packed_weight(context.params, "up", 64)->format == format);
    CHECK_FALSE(packed_weight(ParamView(dense), "up", 64).has_value());
  }
}

TEST_CASE("a trained dense weight shadows a packed one") {
  const auto packed = packed_layer({"affine", 4, 32}).first;
  const Params trained{{"up.weight", mx::zeros({5, 64})}, {"up.bias", mx::zeros({5})}};
  ForwardContext context{ParamView(packed, &trained), {}, {}};
  CHECK(mx::max(mx::abs(linear(context, "up", randn({2, 64}, "x")))).item<float>() == 0.0F);
}

TEST_CASE("a packed layer with another number of features is named") {
  const auto packed = packed_layer({"affine", 4, 32}).first;
  CHECK(contains(message_of<ModelError>([&] { run(packed, mx::zeros({2, 96})); }), "up.weight"));
}
