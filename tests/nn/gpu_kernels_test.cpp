// The GPU's kernels beside plain operations in fp32. Without a CUDA device there is nothing to run: the plain
// operations are what is used.
#include "temper/nn/gpu_kernels.h"

#include "nn/support.h"
#include "temper/nn/rope.h"

using namespace temper;
using namespace temper::test;

namespace {

constexpr float kBf16 = 6e-3F; // a rounding to 8 significant bits, of the result

mx::array half_of(const mx::Shape& shape, const std::string& name) {
  return mx::astype(randn(shape, name), mx::bfloat16);
}

mx::array wide(const mx::array& x) {
  return mx::astype(x, mx::float32);
}

mx::array silu_product(const mx::array& gate, const mx::array& up) {
  return gate * mx::sigmoid(gate) * up;
}

bool no_gpu() {
  const bool missing = !gpu::serves(half_of({8, 8}, "probe"));
  if (missing) {
    MESSAGE("no CUDA device: skipped");
  }
  return missing;
}

mx::array update_of(const gpu::LowRank& update) {
  const auto& narrow = update.narrow;
  const int rank = update.factor.shape(0);
  return mx::matmul(wide(mx::slice(narrow, {0, update.first}, {narrow.shape(0), update.first + rank})),
                    wide(update.factor));
}

} // namespace

TEST_CASE("swiglu and its gradient on a GPU") {
  if (no_gpu()) {
    return;
  }
  const auto gate = half_of({7, 136}, "gate");
  const auto up = half_of({7, 136}, "up");
  const auto d = half_of({7, 136}, "d");
  const auto f = [](const auto& run) {
    return [run](const std::vector<mx::array>& in) { return std::vector<mx::array>{run(in[0], in[1])}; };
  };
  const auto [y, found] = mx::vjp(f(gpu::swiglu), {gate, up}, {d});
  const auto [expected_y, expected] = mx::vjp(f(silu_product), {wide(gate), wide(up)}, {wide(d)});
  CHECK(relative_difference(wide(y[0]), expected_y[0]) < kBf16);
  CHECK(relative_difference(wide(found[0]), expected[0]) < kBf16);
  CHECK(relative_difference(wide(found[1]), expected[1]) < kBf16);
}

TEST_CASE("low-rank updates on a GPU, for rows that are no multiple of a thread's") {
  if (no_gpu()) {
    return;
  }
  for (const int columns : {64, 2056}) {
    for (const int count : {1, 2, 3}) {
      std::vector<mx::array> bases;
      auto expected = mx::zeros({13, columns});
      for (int i = 0; i < count; ++i) {
        bases.push_back(half_of({13, columns}, "base " + std::to_string(i)));
        expected = expected + wide(bases.back());
      }
      const gpu::LowRank update{half_of({13, 24}, "narrow"), 8, half_of({8, columns}, "factor")};
      CHECK(relative_difference(wide(gpu::add_low_rank(bases, update)), expected + update_of(update)) < kBf16);
    }
  }
}

TEST_CASE("swiglu with low-rank updates and its gradient on a GPU") {
  if (no_gpu()) {
    return;
  }
  const auto gate = half_of({13, 264}, "gate");
  const auto up = half_of({13, 264}, "up");
  const auto d = half_of({13, 264}, "d");
  const auto narrow = half_of({13, 12}, "narrow");
  const gpu::LowRank of_gate{narrow, 0, half_of({8, 264}, "gate factor")};
  const gpu::LowRank of_up{narrow, 8, half_of({4, 264}, "up factor")};
  const gpu::LowRank of_d{half_of({13, 8}, "d narrow"), 0, half_of({8, 264}, "d factor")};
  const auto g = wide(gate) + update_of(of_gate);
  const auto u = wide(up) + update_of(of_up);
  CHECK(relative_difference(wide(gpu::adapted_swiglu(gate, up, of_gate, of_up)), silu_product(g, u)) < kBf16);
  const auto found = gpu::adapted_swiglu_gradient(gate, up, of_gate, of_up, d, of_d);
  const auto f = [](const std::vector<mx::array>& in) {
    return std::vector<mx::array>{silu_product(in[0], in[1])};
  };
  const auto expected = mx::vjp(f, {g, u}, {wide(d) + update_of(of_d)}).second;
  CHECK(relative_difference(wide(found[0]), expected[0]) < kBf16);
  CHECK(relative_difference(wide(found[1]), expected[1]) < kBf16);
  CHECK(relative_difference(wide(found[2]), silu_product(g, u)) < kBf16);
}

TEST_CASE("narrow products of wide arrays on a GPU, of any rank, for rows that are no multiple of a tile's") {
  if (no_gpu()) {
    return;
  }
  for (const int rank : {5, 8, 24, 64}) {
    for (const int rows : {13, 4100}) {
      const auto x = half_of({rows, 264}, "x");
      const auto factor = half_of({rank, 264}, "factor");
      const auto found = gpu::row_products({{x, factor}}, 0.5F);
      CHECK(relative_difference(wide(found), 0.5F * mx::matmul(wide(x), mx::transpose(wide(factor)))) < kBf16);
    }
  }
}

TEST_CASE("several narrow products on a GPU lie side by side, of factors that lie anywhere") {
  if (no_gpu()) {
    return;
  }
  const auto x = half_of({37, 64}, "x");
  const auto y = half_of({37, 2056}, "y");
  const auto all = half_of({3 + 8 * 64 + 5 * 2056}, "factors");
  const auto f = mx::reshape(mx::slice(all, {3}, {3 + 8 * 64}), {8, 64});
  const auto g = mx::reshape(mx::slice(all, {3 + 8 * 64}, {3 + 8 * 64 + 5 * 2056}), {5, 2056});
  const auto expected = mx::concatenate(
      {mx::matmul(wide(x), mx::transpose(wide(f))), mx::matmul(wide(y), mx::transpose(wide(g)))}, 1);
  CHECK(relative_difference(wide(gpu::row_products({{x, f}, {y, g}}, 1.0F)), expected) < kBf16);
}

TEST_CASE("products over all rows on a GPU, of narrow columns with wide ones") {
  if (no_gpu()) {
    return;
  }
  for (const int rows : {13, 1000}) {
    for (const int columns : {72, 4104}) {
      const auto x = half_of({rows, columns}, "x");
      const auto y = half_of({rows, 128}, "y");
      const auto narrow = half_of({rows, 69}, "narrow");
      const auto product = [&](const mx::array& of, int first, int rank) {
        const auto part = mx::slice(narrow, {0, first}, {rows, first + rank});
        return mx::matmul(mx::transpose(wide(part)), wide(of));
      };
      const auto found = gpu::column_products(
          {{narrow, 0, {8, 5}, x, true}, {narrow, 13, {24}, y, false}, {narrow, 0, {64}, x, false}});
      CHECK(relative_difference(wide(found[0]), mx::transpose(product(x, 0, 8))) < kBf16);
      CHECK(relative_difference(wide(found[1]), mx::transpose(product(x, 8, 5))) < kBf16);
      CHECK(relative_difference(wide(found[2]), product(y, 13, 24)) < kBf16);
      CHECK(relative_difference(wide(found[3]), product(x, 0, 64)) < kBf16);
    }
  }
}

TEST_CASE("packed weights unpacked on a GPU") {
  if (no_gpu()) {
    return;
  }
  for (const int bits : {2, 3, 4, 8}) {
    for (const int group : {32, 128}) {
      CAPTURE(bits);
      CAPTURE(group);
      const auto packed =
          quantize(half_of({72, 384}, "weight"), make_quant_format("affine", bits, group), "weight");
      const auto found = gpu::dequantize(packed, mx::bfloat16);
      CHECK(found.dtype() == mx::bfloat16);
      CHECK(relative_difference(wide(found), wide(dequantize(packed, mx::bfloat16))) < kBf16);
    }
  }
}

TEST_CASE("matrices transposed and stacked, and hundreds of vectors joined on a GPU") {
  if (no_gpu()) {
    return;
  }
  const auto a = half_of({72, 8}, "a");
  const auto b = half_of({72, 5}, "b");
  const auto stacked = mx::transpose(mx::concatenate({a, b}, 1));
  CHECK(mx::array_equal(gpu::stack_transposed({a, b}), stacked).item<bool>());
  std::vector<mx::array> parts;
  for (int i = 0; i < 900; ++i) {
    parts.push_back(half_of({i % 3 == 0 ? 9001 : 8 * (i % 7 + 1)}, "part " + std::to_string(i)));
  }
  CHECK(mx::array_equal(gpu::join(parts), mx::concatenate(parts, 0)).item<bool>());
}

TEST_CASE("a norm and what goes on beside it on a GPU, and their one gradient") {
  if (no_gpu()) {
    return;
  }
  for (const int features : {512, 1032, 8192}) {
    const auto x = half_of({2, 3, features}, "x");
    const auto weight = half_of({features}, "weight");
    REQUIRE(gpu::norm_serves(x));
    const auto run = [&](const std::vector<mx::array>& in) {
      const auto [beside, y] = gpu::norm_beside(in[0], weight, 1e-5F);
      return std::vector<mx::array>{beside, y};
    };
    const auto plain = [&](const std::vector<mx::array>& in) {
      const auto root = mx::rsqrt(mx::mean(mx::square(in[0]), -1, true) + 1e-5F);
      return std::vector<mx::array>{in[0], in[0] * root * wide(weight)};
    };
    const std::vector<mx::array> d{half_of(x.shape(), "passed"), half_of(x.shape(), "d")};
    const auto [y, found] = mx::vjp(run, {x}, d);
    const auto [expected_y, expected] = mx::vjp(plain, {wide(x)}, {wide(d[0]), wide(d[1])});
    CHECK(relative_difference(wide(y[1]), expected_y[1]) < kBf16);
    CHECK(relative_difference(wide(found[0]), expected[0]) < kBf16);
  }
}

TEST_CASE("rope on a GPU turns as the table says and back") {
  if (no_gpu()) {
    return;
  }
  for (const int rotated : {16, 32}) {
    RopeSpec spec;
    spec.dims = rotated;
    const auto table =
        make_rope_table(spec, mx::reshape(mx::arange(0, 10, 1, mx::int32), {2, 5}), std::nullopt);
    const auto x = half_of({2, 5, 3 * 32}, "x");
    REQUIRE(rope_rows_serves(table, x, 3));
    const auto plain = [&](const mx::array& rows) {
      const auto heads = mx::transpose(mx::unflatten(wide(rows), 2, {3, 32}), {0, 2, 1, 3});
      return mx::flatten(mx::transpose(apply_rope(table, heads), {0, 2, 1, 3}), 2, 3);
    };
    const auto run = [&](const std::vector<mx::array>& in) {
      return std::vector<mx::array>{rope_rows(table, in[0], 3)};
    };
    const auto [y, back] = mx::vjp(run, {x}, {plain(x)});
    CHECK(relative_difference(wide(y[0]), plain(x)) < kBf16);
    CHECK(relative_difference(wide(mx::vjp(run, {x}, {y[0]}).second[0]), wide(x)) < 2 * kBf16);
  }
}

TEST_CASE("cross entropy and its gradient on a GPU, rows without weight left out") {
  if (no_gpu()) {
    return;
  }
  const auto logits = mx::astype(4.0F * half_of({5, 1032}, "logits"), mx::bfloat16);
  const auto targets = mx::array({3, 1031, 0, 77, 5}, mx::int32);
  const auto weights = mx::array({0.5F, 1.0F, 0.0F, 2.0F, 0.25F});
  const auto [losses, gradient] = gpu::cross_entropy(logits, targets, weights);
  const auto plain = [&](const std::vector<mx::array>& in) {
    const auto picked = mx::squeeze(mx::take_along_axis(in[0], mx::expand_dims(targets, 1), 1), 1);
    return std::vector<mx::array>{(mx::logsumexp(in[0], -1) - picked) * weights};
  };
  const auto [expected, back] = mx::vjp(plain, {wide(logits)}, {mx::ones({5})});
  CHECK(relative_difference(losses, expected[0]) < 1e-5F);
  CHECK(relative_difference(wide(gradient), back[0]) < kBf16);
}
