#include "temper/quant/ggml.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include <doctest/doctest.h>

#include "temper/base/error.h"

using namespace temper;

namespace {

std::vector<float> normal_weights(std::size_t count) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal(0.0F, 0.02F);
  std::vector<float> result(count);
  std::generate(result.begin(), result.end(), [&] { return normal(random); });
  return result;
}

std::vector<float> round_trip(const GgmlFormat& type, const std::vector<float>& weights, std::int64_t columns) {
  const auto bytes = ggml_quantize(type, weights, columns, "w");
  std::vector<float> out(weights.size());
  ggml_dequantize(type, bytes, out, "w");
  return out;
}

double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0;
  double norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    error += (a[i] - b[i]) * (a[i] - b[i]);
    norm += a[i] * a[i];
  }
  return std::sqrt(error / norm);
}

} // namespace

TEST_CASE("each format keeps weights to within its bits") {
  const auto weights = normal_weights(64 * 512);
  const std::vector<std::pair<std::string, double>> bounds = {
      {"f32", 0.0},   {"f16", 5e-4},  {"bf16", 3e-3}, {"q8_0", 0.006},  {"q6_K", 0.02},
      {"q5_K", 0.04}, {"q5_0", 0.05}, {"q5_1", 0.05}, {"q4_K", 0.08},   {"q4_0", 0.1},
      {"q4_1", 0.09}, {"q3_K", 0.17}, {"q2_K", 0.4},  {"iq4_nl", 0.09}, {"iq4_xs", 0.09}};
  for (const auto& [name, bound] : bounds) {
    CAPTURE(name);
    CHECK(relative_error(weights, round_trip(find_ggml_format(name), weights, 512)) <= bound);
  }
}

TEST_CASE("what ggml packed packs to the same bytes again") {
  const auto weights = normal_weights(8 * 256);
  for (const char* name : {"q8_0", "f16", "bf16"}) {
    const GgmlFormat& type = find_ggml_format(name);
    const auto bytes = ggml_quantize(type, weights, 256, "w");
    std::vector<float> out(weights.size());
    ggml_dequantize(type, bytes, out, "w");
    CHECK(ggml_quantize(type, out, 256, "w") == bytes);
  }
}

TEST_CASE("q4_0's block is a half-precision scale and 32 nibbles about 8") {
  std::vector<float> weights(32);
  for (int i = 0; i < 32; ++i) {
    weights[static_cast<std::size_t>(i)] = static_cast<float>(i % 16 - 8) * 0.5F;
  }
  const GgmlFormat& type = find_ggml_format("Q4_0");
  CHECK(type.id == 2);
  CHECK(type.block_weights == 32);
  CHECK(type.row_bytes(64) == 36);
  const auto bytes = ggml_quantize(type, weights, 32, "w");
  REQUIRE(bytes.size() == 18);
  std::uint16_t scale = 0;
  std::memcpy(&scale, bytes.data(), 2);
  CHECK(scale == 0x3800); // 0.5
  for (int i = 0; i < 16; ++i) {
    CHECK(std::to_integer<int>(bytes[static_cast<std::size_t>(2 + i)]) == (i | i << 4));
  }
  CHECK(round_trip(type, weights, 32) == weights);
}

TEST_CASE("pieces and threads change nothing") {
  const auto weights = normal_weights(700 * 512);
  const GgmlFormat& type = find_ggml_format("q4_K");
  const auto whole = ggml_quantize(type, weights, 512, "w");
  const auto row = ggml_quantize(type, std::span(weights).subspan(699 * 512, 512), 512, "w");
  CHECK(std::equal(row.begin(), row.end(), whole.end() - static_cast<std::ptrdiff_t>(row.size())));
}

TEST_CASE("any bytes unpack") {
  std::mt19937 random(3);
  for (const GgmlFormat& type : ggml_formats()) {
    CAPTURE(type.name);
    std::vector<std::byte> bytes(type.block_bytes * 64);
    std::generate(bytes.begin(), bytes.end(), [&] { return static_cast<std::byte>(random()); });
    std::vector<float> out(static_cast<std::size_t>(type.block_weights) * 64, -1.0F);
    CHECK_NOTHROW(ggml_dequantize(type, bytes, out, "w"));
  }
}

TEST_CASE("what does not fit is named") {
  std::vector<float> weights(64);
  const GgmlFormat& type = find_ggml_format("q4_0");
  CHECK_THROWS_WITH_AS(ggml_quantize(type, weights, 16, "blk.0.attn_q.weight"),
                       "blk.0.attn_q.weight: rows of 16 weights are not whole blocks of 32, as q4_0 wants",
                       ModelError);
  CHECK_THROWS_AS(ggml_quantize(type, weights, 0, "w"), ModelError);
  CHECK_THROWS_AS(ggml_quantize(find_ggml_format("iq2_xxs"), std::vector<float>(256), 256, "w"), ModelError);
  weights[33] = std::numeric_limits<float>::infinity();
  CHECK_THROWS_WITH_AS(ggml_quantize(type, weights, 32, "w"),
                       "w: weight [1, 1] is inf, which has no place in a quantized block", ModelError);
  std::vector<std::byte> bytes(18);
  CHECK_THROWS_AS(ggml_dequantize(type, bytes, weights, "w"), ModelError);
  CHECK_THROWS_AS(find_ggml_format("q9_9"), ConfigError);
  CHECK(find_ggml_format(26) == nullptr); // i32
}
