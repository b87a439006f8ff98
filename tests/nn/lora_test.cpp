#include "temper/nn/lora.h"

#include "nn/support.h"
#include "temper/base/error.h"

using namespace temper;
using namespace temper::test;

namespace {

constexpr int kIn = 6;
constexpr int kOut = 5;
constexpr int kRank = 3;

LoraPair factors() {
  return {randn({kIn, kRank}, "a"), randn({kRank, kOut}, "b")};
}

const mx::array kX = randn({2, 4, kIn}, "x");
const mx::array kY = randn({2, 4, kOut}, "y");

} // namespace

TEST_CASE("LoRA adds scale x A B") {
  const auto pair = factors();
  const LoraConfig config{.rank = kRank, .scale = 2.5F};
  const auto expected = kY + 2.5F * mx::matmul(mx::matmul(kX, pair.a), pair.b);
  CHECK(max_difference(apply_lora(config, pair, kX, kY), expected) < 1e-5F);
}

TEST_CASE("LoRA keeps the layer's dtype and casts its factors") {
  const LoraConfig config{.rank = kRank, .scale = 2.0F};
  const auto half = apply_lora(config, factors(), mx::astype(kX, mx::bfloat16), mx::astype(kY, mx::bfloat16));
  CHECK(half.dtype() == mx::bfloat16);
  CHECK(relative_difference(half, apply_lora(config, factors(), kX, kY)) < 0.02F);
}

TEST_CASE("LoRA's gradients agree with finite differences") {
  const auto pair = factors();
  for (const float dropout : {0.0F, 0.4F}) {
    const LoraConfig config{.rank = kRank, .scale = 1.5F, .dropout = dropout};
    check_gradients(
        [&](const Arrays& in) {
          return apply_lora(config, {in[0], in[1]}, in[2], in[3], named_key(1, "dropout"));
        },
        {pair.a, pair.b, kX, kY});
  }
}

TEST_CASE("merging gives the layer that LoRA computes") {
  const auto pair = factors();
  const auto weight = randn({kOut, kIn}, "weight");
  const LoraConfig config{.rank = kRank, .scale = 0.7F};
  const auto merged = mx::matmul(kX, mx::transpose(merge_lora(config, pair, weight)));
  const auto applied = apply_lora(config, pair, kX, mx::matmul(kX, mx::transpose(weight)));
  CHECK(max_difference(merged, applied) < 1e-5F);
  CHECK(merge_lora(config, pair, mx::astype(weight, mx::bfloat16)).dtype() == mx::bfloat16);
}

TEST_CASE("fresh factors change nothing, fill their range and depend on seed and name alone") {
  const LoraConfig config{.rank = 64};
  const auto made = init_lora(config, {{"first", {8, 100}}, {"second", {8, 100}}}, 3);
  CHECK(made.size() == 4);
  CHECK(made.at("first.lora_a").shape() == mx::Shape{100, 64});
  CHECK(made.at("first.lora_b").shape() == mx::Shape{64, 8});
  CHECK(mx::max(mx::abs(made.at("first.lora_b"))).item<float>() == 0.0F);
  const auto& a = made.at("first.lora_a");
  const float bound = 0.1F; // 1 / sqrt(100)
  CHECK(mx::max(mx::abs(a)).item<float>() <= bound);
  CHECK(mx::max(a).item<float>() > 0.99F * bound);
  CHECK(mx::min(a).item<float>() < -0.99F * bound);
  CHECK(std::abs(mx::mean(a).item<float>()) < 0.05F * bound);
  CHECK(mx::std(a).item<float>() == doctest::Approx(bound / std::sqrt(3.0F)).epsilon(0.03));

  CHECK_FALSE(same_bits(a, made.at("second.lora_a")));
  CHECK(same_bits(a, init_lora(config, {{"first", {8, 100}}}, 3).at("first.lora_a")));
  CHECK_FALSE(same_bits(a, init_lora(config, {{"first", {8, 100}}}, 4).at("first.lora_a")));
}

TEST_CASE("dropout falls on the input of A, by the key given, in training only") {
  const auto pair = factors();
  const LoraConfig config{.rank = kRank, .scale = 1.0F, .dropout = 0.5F};
  const auto with = [&](int seed) {
    return apply_lora(config, pair, kX, kY, named_key(static_cast<std::uint64_t>(seed), "key"));
  };
  CHECK(same_bits(with(1), with(1)));
  CHECK_FALSE(same_bits(with(1), with(2)));
  const auto expected = kY + mx::matmul(mx::matmul(dropout(kX, 0.5F, named_key(1, "key")), pair.a), pair.b);
  CHECK(max_difference(with(1), expected) < 1e-5F);
  const LoraConfig none{.rank = kRank, .scale = 1.0F};
  CHECK(same_bits(apply_lora(config, pair, kX, kY), apply_lora(none, pair, kX, kY)));
}

TEST_CASE("factors that do not fit are refused with their shapes") {
  const LoraConfig config{.rank = kRank};
  const auto refuse = [&](const mx::Shape& a, const mx::Shape& b) {
    return message_of<ModelError>([&] { apply_lora(config, {mx::zeros(a), mx::zeros(b)}, kX, kY); });
  };
  CHECK(refuse({kIn, kRank}, {kRank, kOut}).empty());
  const auto message = refuse({kIn + 1, kRank}, {kRank, kOut});
  CHECK(contains(message, "[7, 3]"));
  CHECK(contains(message, "[3, 5]"));
  CHECK(contains(message, "from 6 to 5 features"));
  CHECK_FALSE(refuse({kIn, kRank}, {kRank + 1, kOut}).empty());
  CHECK_FALSE(refuse({kIn, kRank}, {kRank, kOut + 1}).empty());
  CHECK_FALSE(refuse({kIn}, {kRank, kOut}).empty());
}

TEST_CASE("the norms of an adapted weight's rows need not its rows") {
  const auto pair = factors();
  const auto weight = randn({kOut, kIn}, "w");
  for (const float scale : {0.5F, 20.0F}) {
    const auto merged = weight + scale * mx::transpose(mx::matmul(pair.a, pair.b));
    const auto found =
        adapted_row_norms(row_norms(weight), mx::transpose(mx::matmul(weight, pair.a)), pair, scale);
    CHECK(relative_difference(found, row_norms(merged)) < 1e-5F);
  }
}

TEST_CASE("norms of rows that the update all but cancels stay numbers, and rows of zeros count as such") {
  // Row 0 is cancelled to a share of `rest`, row 1 is zero in W and update, row 2 zero in W alone.
  const auto a = randn({kIn, kRank}, "a");
  const auto b =
      mx::where(mx::equal(mx::arange(kOut), mx::array(1)), mx::array(0.0F), randn({kRank, kOut}, "b"));
  const auto update = mx::transpose(mx::matmul(a, b));
  const auto rows = mx::expand_dims(mx::arange(kOut), 1);
  for (const float rest : {1.0F, 0.1F, 1e-2F, 0.0F}) {
    CAPTURE(rest);
    auto weight = mx::where(mx::equal(rows, mx::array(0)), (rest - 1.0F) * update, randn({kOut, kIn}, "w"));
    weight = mx::where(mx::logical_or(mx::equal(rows, mx::array(1)), mx::equal(rows, mx::array(2))),
                       mx::array(0.0F), weight);
    const auto norms = adapted_row_norms(row_norms(weight), mx::transpose(mx::matmul(weight, a)), {a, b}, 1.0F);
    CHECK(mx::all(mx::isfinite(1.0F / norms)).item<bool>());
    const auto direct = row_norms(weight + update);
    CHECK(mx::take(norms, 1).item<float>() == kSmallestNorm);
    CHECK(mx::take(norms, 2).item<float>() == doctest::Approx(mx::take(direct, 2).item<float>()));
    if (rest >= 1e-2F) {
      CHECK(mx::take(norms, 0).item<float>() ==
            doctest::Approx(mx::take(direct, 0).item<float>()).epsilon(0.01));
    } else { // noise alone: bounded by the row's own norm, so that it scales nothing beyond measure
      CHECK(mx::take(norms, 0).item<float>() >= 3e-4F * mx::take(row_norms(weight), 0).item<float>());
    }
  }
}

TEST_CASE("a merged magnitude is the norm of its row") {
  const LoraConfig config{.rank = kRank, .scale = 2.0F};
  const auto magnitude = mx::abs(randn({kOut}, "m"));
  const auto merged = merge_lora(config, factors(), randn({kOut, kIn}, "w"), magnitude);
  CHECK(relative_difference(row_norms(merged), magnitude) < 1e-5F);
}

TEST_CASE("a layer may have a rank and weight of its own") {
  LoraConfig config{.rank = 8, .scale = 2.0F, .dropout = 0.1F, .dora = true};
  config.layers["a"] = {4, 3.0F};
  CHECK(config.of("a").rank == 4);
  CHECK(config.of("a").scale == 3.0F);
  CHECK(config.of("a").dropout == 0.1F);
  CHECK(config.of("b").rank == 8);
  const auto fresh = init_lora(config, {{"a", {5, 6}}, {"b", {5, 6}}}, 1);
  CHECK(fresh.at("a.lora_a").shape() == mx::Shape{6, 4});
  CHECK(fresh.at("b.lora_b").shape() == mx::Shape{8, 5});
}
