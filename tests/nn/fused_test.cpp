// Host kernels against their plain-op twins: values and gradients.
#include "temper/nn/fused.h"

#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "temper/nn/attention.h"
#include "temper/nn/host_op.h"
#include "temper/nn/loss.h"
#include "temper/nn/random.h"
#include "temper/nn/rope.h"

using namespace temper;

namespace {

using Arrays = std::vector<mx::array>;
using Function = std::function<mx::array(const Arrays&)>;

mx::array random(const char* name, const mx::Shape& shape) {
  return mx::random::normal(shape, mx::float32, 0.0F, 1.0F, named_key(1, name));
}

float max_difference(const mx::array& a, const mx::array& b) {
  REQUIRE(a.shape() == b.shape());
  return mx::max(mx::abs(a - b)).item<float>();
}

// Value of `fast` and `plain` and the gradients of their sums weighted by fixed random numbers.
void check_twins(const Function& fast, const Function& plain, const Arrays& inputs, float tolerance) {
  const auto expected = plain(inputs);
  CHECK(max_difference(fast(inputs), expected) < tolerance);
  const auto weights = random("cotangent", expected.shape());
  std::vector<int> all;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    all.push_back(static_cast<int>(i));
  }
  const auto gradients = [&](const Function& f) {
    const Function weighted = [&](const Arrays& in) { return mx::sum(f(in) * weights); };
    return mx::grad(weighted, all)(inputs);
  };
  const auto a = gradients(fast);
  const auto b = gradients(plain);
  for (std::size_t i = 0; i < a.size(); ++i) {
    CAPTURE(i);
    CHECK(max_difference(a[i], b[i]) < tolerance * (1.0F + mx::max(mx::abs(b[i])).item<float>()));
  }
}

Function without_host_kernels(const Function& f) {
  return [f](const Arrays& in) {
    set_host_kernels(false);
    auto out = f(in);
    set_host_kernels(true);
    return out;
  };
}

// Attention by the twin: documents as separate rows of the batch.
mx::array plain_attention(const Arrays& in, const std::vector<std::pair<int, int>>& documents, int heads,
                          int kv_heads, int window, const RopeSpec& rope) {
  const auto split = [](const mx::array& x, int count) {
    return mx::transpose(mx::reshape(x, {1, x.shape(1), count, x.shape(2) / count}), {0, 2, 1, 3});
  };
  auto out = mx::zeros_like(in[0]);
  for (const auto& [begin, length] : documents) {
    const auto part = [b = begin, e = begin + length](const mx::array& x) {
      return mx::slice(x, {0, b, 0}, {1, e, x.shape(2)});
    };
    const auto table =
        make_rope_table(rope, mx::expand_dims(mx::arange(0, length, 1, mx::int32), 0), std::nullopt);
    const float scale = 1.0F / std::sqrt(static_cast<float>(in[0].shape(2) / heads));
    const auto o = attention({}, {scale, window}, apply_rope(table, split(part(in[0]), heads)),
                             apply_rope(table, split(part(in[1]), kv_heads)), split(part(in[2]), kv_heads), 0);
    const auto merged = mx::flatten(mx::transpose(o, {0, 2, 1, 3}), 2, 3);
    out = mx::slice_update(out, merged, mx::Shape{0, begin, 0}, mx::Shape{1, begin + length, out.shape(2)});
  }
  return out;
}

} // namespace

TEST_CASE("swiglu agrees with its twin") {
  const Function f = [](const Arrays& in) { return swiglu(in[0], in[1]); };
  check_twins(f, without_host_kernels(f), {random("g", {3, 7, 129}) * 4.0F, random("u", {3, 7, 129})}, 2e-6F);
}

TEST_CASE("rms_norm agrees with its twin, the weight's gradient included") {
  const Function f = [](const Arrays& in) { return rms_norm(in[0], in[1], 1e-5F); };
  check_twins(f, without_host_kernels(f), {random("x", {2, 5, 77}), random("w", {77})}, 1e-5F);
}

TEST_CASE("attention agrees with its twin: documents, groups of heads, windows, odd head sizes, partial rope") {
  struct Case {
    int heads, kv_heads, head_dim, rotated, window;
  };
  const std::vector<std::pair<int, int>> documents{{0, 37}, {37, 1}, {40, 90}};
  const int tokens = 133;
  for (const auto& c :
       {Case{4, 2, 32, 32, 0}, Case{2, 2, 20, 20, 0}, Case{6, 2, 16, 8, 5}, Case{3, 1, 64, 64, 50}}) {
    CAPTURE(c.head_dim);
    CAPTURE(c.window);
    RopeSpec rope;
    rope.dims = c.rotated;
    std::vector<std::int32_t> places;
    std::vector<std::int32_t> positions(tokens, 0);
    for (const auto& [begin, length] : documents) {
      places.insert(places.end(), {begin, length});
      for (int i = 0; i < length; ++i) {
        positions[static_cast<std::size_t>(begin + i)] = i;
      }
    }
    const auto table = make_rope_table(rope, mx::array(positions.data(), {1, tokens}, mx::int32), std::nullopt);
    const Function fast = [&](const Arrays& in) {
      return host_attention({mx::array(places.data(), {3, 2}, mx::int32), mx::flatten(table.cos_B1TK, 0, 2),
                             mx::flatten(table.sin_B1TK, 0, 2), c.heads, c.kv_heads,
                             1.0F / std::sqrt(static_cast<float>(c.head_dim)), c.window},
                            in[0], in[1], in[2]);
    };
    const Function plain = [&](const Arrays& in) {
      return plain_attention(in, documents, c.heads, c.kv_heads, c.window, rope);
    };
    check_twins(
        fast, plain,
        {random("q", {1, tokens, c.heads * c.head_dim}), random("k", {1, tokens, c.kv_heads * c.head_dim}),
         random("v", {1, tokens, c.kv_heads * c.head_dim})},
        2e-5F);
  }
}

TEST_CASE("cross entropy agrees with its twin, in hidden states and head") {
  const LossTargets targets{mx::array({3, 0, 9, 5}, mx::int32), mx::array({1, 50, 0, 7}, mx::int32),
                            mx::array({0.5F, 0.25F, 0.25F, 0.0F})};
  const Function fast = [&](const Arrays& in) {
    return chunked_cross_entropy(in[0], {in[1], true}, targets, 3);
  };
  const Function plain = [&](const Arrays& in) { return plain_cross_entropy(in[0], {in[1]}, targets); };
  check_twins(fast, plain, {random("h", {10, 24}), random("head", {51, 24}) * 3.0F}, 1e-5F);
}

TEST_CASE("rule 10: host kernels pass NaN on") {
  auto x = mx::array({1.0F, std::numeric_limits<float>::quiet_NaN(), 2.0F, 3.0F});
  CHECK(std::isnan(mx::sum(swiglu(x, mx::ones({4}))).item<float>()));
  CHECK(std::isnan(mx::sum(rms_norm(mx::reshape(x, {1, 4}), mx::ones({4}), 1e-5F)).item<float>()));
  const LossTargets targets{mx::array({0}, mx::int32), mx::array({0}, mx::int32), mx::array({1.0F})};
  const auto loss = chunked_cross_entropy(mx::reshape(x, {1, 4}), {mx::ones({5, 4}), false}, targets, 1);
  CHECK(std::isnan(mx::array(loss).item<float>()));
}
