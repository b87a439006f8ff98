// The GPU's kernels beside plain operations in fp32. Without a CUDA device there is nothing to run: the plain
// operations are what is used.
#include "temper/nn/gpu_kernels.h"

#include "nn/gpu_support.h"
#include "temper/nn/activation.h"
#include "temper/nn/gpu_attention.h"
#include "temper/nn/rope.h"

using namespace temper;
using namespace temper::test;

namespace {

constexpr float kBf16 = 6e-3F; // a rounding to 8 significant bits, of the result

mx::array silu_product(const mx::array& gate, const mx::array& up) {
  return gate * mx::sigmoid(gate) * up;
}

mx::array update_of(const gpu::LowRank& update) {
  const auto& narrow = update.narrow;
  const int rank = update.factor.shape(0);
  return mx::matmul(wide(mx::slice(narrow, {0, update.first}, {narrow.shape(0), update.first + rank})),
                    wide(update.factor));
}

} // namespace

TEST_CASE("gated products and their gradients on a GPU") {
  if (no_gpu()) {
    return;
  }
  const auto gate = mx::astype(4.0F * half_of({7, 136}, "gate"), mx::bfloat16);
  const auto up = half_of({7, 136}, "up");
  const auto d = half_of({7, 136}, "d");
  const auto f = [](const auto& run) {
    return [run](const std::vector<mx::array>& in) { return std::vector<mx::array>{run(in[0], in[1])}; };
  };
  for (const auto activation : {Activation::silu, Activation::gelu_tanh}) {
    const auto product = [=](const mx::array& a, const mx::array& b) { return glu(activation, a, b); };
    const auto [y, found] = mx::vjp(f(product), {gate, up}, {d});
    const auto [expected_y, expected] = mx::vjp(f(product), {wide(gate), wide(up)}, {wide(d)});
    CHECK(relative_difference(wide(y[0]), expected_y[0]) < kBf16);
    CHECK(relative_difference(wide(found[0]), expected[0]) < kBf16);
    CHECK(relative_difference(wide(found[1]), expected[1]) < kBf16);
  }
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

TEST_CASE("matrices transposed and stacked, and hundreds of arrays joined on a GPU") {
  if (no_gpu()) {
    return;
  }
  const auto a = half_of({72, 8}, "a");
  const auto b = half_of({72, 5}, "b");
  const auto stacked = mx::transpose(mx::concatenate({a, b}, 1));
  CHECK(mx::array_equal(gpu::stack_transposed({a, b}), stacked).item<bool>());
  std::vector<mx::array> parts;
  std::vector<mx::array> flat;
  for (int i = 0; i < 900; ++i) {
    const auto shape = i % 3 == 0 ? mx::Shape{9001} : mx::Shape{i % 7 + 1, 8};
    parts.push_back(half_of(shape, "part " + std::to_string(i)));
    flat.push_back(mx::flatten(parts.back()));
  }
  CHECK(mx::array_equal(gpu::join(parts), mx::concatenate(flat, 0)).item<bool>());
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

namespace {

// Documents one after the other, in one row.
struct AttentionCase {
  std::vector<int> lengths; // below zero: padding
  gpu::AttentionOptions options;
  int head_dim;
  mx::Dtype dtype = mx::bfloat16;
};

struct Spans {
  mx::array of_tokens; // int32 [2, N]
  mx::array seen;      // bool [N, N]: query, key
  int num_tokens;
};

Spans spans_of(const AttentionCase& c) {
  std::vector<int> first;
  std::vector<int> end;
  for (const int length : c.lengths) {
    const int begin = static_cast<int>(first.size());
    for (int i = 0; i < std::abs(length); ++i) {
      first.push_back(length > 0 ? begin : begin + i);
      end.push_back(length > 0 ? begin + length : begin + i + 1);
    }
  }
  const int count = static_cast<int>(first.size());
  const auto firsts = mx::array(first.data(), {count, 1}, mx::int32);
  const auto query = mx::reshape(mx::arange(count), {count, 1});
  const auto key = mx::reshape(mx::arange(count), {1, count});
  auto seen = mx::logical_and(mx::less_equal(key, query), mx::greater_equal(key, firsts));
  if (c.options.window > 0) {
    seen = mx::logical_and(seen, mx::greater(key, query - mx::array(c.options.window)));
  }
  first.insert(first.end(), end.begin(), end.end());
  return {mx::array(first.data(), {2, count}, mx::int32), seen, count};
}

// Attention with all scores at once, in the inputs' precision but for the softmax.
Arrays plain_attention(const AttentionCase& c, const mx::array& seen, const Arrays& in) {
  const auto& o = c.options;
  const auto heads = [&](const mx::array& x, int count) {
    const auto split = mx::transpose(mx::unflatten(mx::squeeze(x, 0), 1, {count, c.head_dim}), {1, 0, 2});
    return mx::repeat(split, o.num_heads / count, 0);
  };
  const auto q = heads(in[0], o.num_heads) * mx::array(o.scale, in[0].dtype());
  auto scores = wide(mx::matmul(q, mx::swapaxes(heads(in[1], o.num_kv_heads), 1, 2)));
  if (o.softcap > 0.0F) {
    scores = o.softcap * mx::tanh(scores / o.softcap);
  }
  const auto weights = mx::softmax(mx::where(seen, scores, mx::array(-INFINITY)), -1);
  const auto y = mx::matmul(mx::astype(weights, in[2].dtype()), heads(in[2], o.num_kv_heads));
  return {mx::expand_dims(mx::flatten(mx::transpose(y, {1, 0, 2}), 1, 2), 0)};
}

float rms_difference(const mx::array& a, const mx::array& b) {
  const auto norm = [](const mx::array& x) { return mx::sqrt(mx::sum(mx::square(wide(x)))); };
  return (norm(wide(a) - wide(b)) / norm(b)).item<float>();
}

// The result and the gradients beside fp32, no further from it than plain attention in the half precision is.
void check_attention(const AttentionCase& c) {
  const auto spans = spans_of(c);
  const auto random = [&](int heads, const std::string& name) {
    return mx::astype(randn({1, spans.num_tokens, heads * c.head_dim}, name), c.dtype);
  };
  const auto& o = c.options;
  const Arrays in{random(o.num_heads, "q"), random(o.num_kv_heads, "k"), random(o.num_kv_heads, "v")};
  const auto d = random(o.num_heads, "d");
  const auto everything = [](const std::pair<Arrays, Arrays>& results) {
    Arrays all{results.first[0]};
    all.insert(all.end(), results.second.begin(), results.second.end());
    mx::eval(all);
    return all;
  };
  const bool one_document = c.lengths.size() == 1;
  const auto run = [&](const Arrays& x) {
    return Arrays{
        gpu::attention(o, x[0], x[1], x[2], one_document ? std::nullopt : std::optional(spans.of_tokens))};
  };
  const auto plain = [&](const Arrays& x) { return plain_attention(c, spans.seen, x); };
  const auto found = everything(mx::vjp(run, in, {d}));
  const auto half = everything(mx::vjp(plain, in, {d}));
  const auto expected = everything(mx::vjp(plain, {wide(in[0]), wide(in[1]), wide(in[2])}, {wide(d)}));
  for (std::size_t i = 0; i < found.size(); ++i) {
    CAPTURE(i);
    CHECK(found[i].dtype() == c.dtype);
    CHECK(rms_difference(found[i], expected[i]) < 1.25F * rms_difference(half[i], expected[i]) + 1e-4F);
  }
  const auto again = everything(mx::vjp(run, in, {d}));
  for (std::size_t i = 0; i < found.size(); ++i) {
    CHECK(same_bits(found[i], again[i]));
  }
}

} // namespace

TEST_CASE("attention over packed documents on a GPU, and its gradients") {
  if (no_gpu()) {
    return;
  }
  const std::vector<int> mixed{1, 2, 3, 5, 100, 7, 64, 64, 1, 130, -60, 33, 90, -20};
  for (const auto& lengths : {std::vector<int>{300}, std::vector<int>{128}, mixed, {500, 12, 130}}) {
    for (const int head_dim : {64, 80, 128, 256}) {
      for (const int groups : {1, 2, 8}) {
        CAPTURE(head_dim);
        CAPTURE(groups);
        const float scale = 1.0F / std::sqrt(static_cast<float>(head_dim));
        REQUIRE(gpu::attention_serves(mx::bfloat16, head_dim));
        check_attention({lengths, {8, groups, scale}, head_dim});
      }
    }
  }
}

TEST_CASE("attention on a GPU with windows and soft caps, in both half precisions") {
  if (no_gpu()) {
    return;
  }
  const std::vector<int> one{320};
  const std::vector<int> several{300, 17, -30, 200};
  for (const int head_dim : {64, 256}) {
    CAPTURE(head_dim);
    check_attention({one, {4, 2, 0.125F, 40}, head_dim});
    check_attention({several, {4, 2, 0.125F, 40}, head_dim});
    check_attention({several, {4, 1, 0.25F, 0, 3.0F}, head_dim});
    check_attention({several, {4, 4, 0.25F, 100, 30.0F}, head_dim, mx::float16});
  }
}

TEST_CASE("attention on a GPU over rows, of which each is a document") {
  if (no_gpu()) {
    return;
  }
  for (const int width : {128, 200}) {
    const gpu::AttentionOptions options{4, 2, 0.125F};
    const Arrays in{half_of({3, width, 256}, "q"), half_of({3, width, 128}, "k"),
                    half_of({3, width, 128}, "v")};
    const auto whole = gpu::attention(options, in[0], in[1], in[2]);
    for (int row = 0; row < 3; ++row) {
      const auto of = [&](const mx::array& x) {
        return mx::slice(x, {row, 0, 0}, {row + 1, width, x.shape(2)});
      };
      CHECK(relative_difference(wide(of(whole)),
                                wide(gpu::attention(options, of(in[0]), of(in[1]), of(in[2])))) < kBf16);
    }
  }
}
