// Frequencies and rotations by their definitions; tests/models/golden_test.cpp compares every type with
// transformers through whole models.
#include "temper/nn/rope.h"

#include <numbers>

#include "nn/support.h"

using namespace temper;
using namespace temper::test;

namespace {

RopeSpec spec_of(RopeType type) {
  RopeSpec spec;
  spec.type = type;
  spec.dims = 8;
  spec.factor = 4.0F;
  spec.max_positions = 32;
  spec.original_max_positions = 32;
  return spec;
}

const RopeType kTypes[] = {RopeType::plain, RopeType::linear, RopeType::dynamic, RopeType::llama3,
                           RopeType::yarn};

mx::array positions(int count, int from = 0) {
  return mx::expand_dims(mx::arange(from, from + count, 1, mx::int32), 0);
}

} // namespace

TEST_CASE("plain frequencies fall geometrically from 1; linear ones are slower by the factor") {
  const auto plain = rope_frequencies(spec_of(RopeType::plain), 0);
  const auto linear = rope_frequencies(spec_of(RopeType::linear), 0);
  REQUIRE(plain.size() == 4);
  for (std::size_t k = 0; k < 4; ++k) {
    CHECK(plain[k] == doctest::Approx(std::pow(10000.0, -static_cast<double>(k) / 4)).epsilon(1e-6));
    CHECK(linear[k] == doctest::Approx(plain[k] / 4).epsilon(1e-6));
  }
}

TEST_CASE("llama3 and yarn keep fast features and slow the slow ones by the factor") {
  const auto plain = rope_frequencies(spec_of(RopeType::plain), 0);
  for (const auto type : {RopeType::llama3, RopeType::yarn}) {
    const auto stretched = rope_frequencies(spec_of(type), 0);
    CHECK(stretched.front() == doctest::Approx(plain.front()).epsilon(0.05));
    CHECK(stretched.back() == doctest::Approx(plain.back() / 4).epsilon(1e-6));
    for (std::size_t k = 0; k < 4; ++k) {
      CHECK(stretched[k] <= plain[k] * 1.0001F);
      CHECK(stretched[k] >= plain[k] / 4.0001F);
    }
  }
}

TEST_CASE("dynamic frequencies are the plain ones up to max_positions, then stretch with the text") {
  const auto plain = rope_frequencies(spec_of(RopeType::plain), 0);
  CHECK(rope_frequencies(spec_of(RopeType::dynamic), 32) == plain);
  const auto longer = rope_frequencies(spec_of(RopeType::dynamic), 64);
  CHECK(longer[0] == doctest::Approx(1.0));
  CHECK(longer[3] < plain[3]);
  CHECK(rope_frequencies(spec_of(RopeType::dynamic), 128)[3] < longer[3]);
}

TEST_CASE("the table holds cos and sin of position times frequency, times the magnitude") {
  for (const auto type : kTypes) {
    auto spec = spec_of(type);
    spec.magnitude = 1.25F;
    const auto frequencies = rope_frequencies(spec, 40);
    const auto table = make_rope_table(spec, positions(40), std::nullopt);
    REQUIRE(table.cos_B1TK.shape() == mx::Shape{1, 1, 40, 4});
    auto cos = mx::contiguous(table.cos_B1TK);
    auto sin = mx::contiguous(table.sin_B1TK);
    mx::eval(cos, sin);
    for (int t = 0; t < 40; ++t) {
      for (int k = 0; k < 4; ++k) {
        const double angle = double{frequencies[static_cast<std::size_t>(k)]} * t;
        CHECK(cos.data<float>()[t * 4 + k] == doctest::Approx(1.25 * std::cos(angle)).epsilon(1e-4));
        CHECK(sin.data<float>()[t * 4 + k] == doctest::Approx(1.25 * std::sin(angle)).epsilon(1e-4));
      }
    }
  }
}

TEST_CASE("a packed text's dynamic rope depends on its own document's length alone") {
  const auto spec = spec_of(RopeType::dynamic);
  // Documents of 50 and 10 tokens in one row.
  const auto packed = mx::concatenate({positions(50), positions(10)}, 1);
  const auto lengths = mx::concatenate({mx::full({1, 50}, 50, mx::int32), mx::full({1, 10}, 10, mx::int32)}, 1);
  const auto table = make_rope_table(spec, packed, lengths);
  const auto part = [](const mx::array& x, int begin, int end) {
    return mx::slice(x, {0, 0, begin, 0}, {1, 1, end, x.shape(3)});
  };
  const auto first = make_rope_table(spec, positions(50), std::nullopt);
  const auto second = make_rope_table(spec, positions(10), std::nullopt);
  CHECK(max_difference(part(table.sin_B1TK, 0, 50), first.sin_B1TK) < 1e-6F);
  CHECK(max_difference(part(table.sin_B1TK, 50, 60), second.sin_B1TK) < 1e-6F);
  CHECK(max_difference(part(table.cos_B1TK, 50, 60), second.cos_B1TK) < 1e-6F);
}

TEST_CASE("rotation keeps lengths and makes scores depend on distance alone") {
  const auto spec = spec_of(RopeType::plain);
  const auto q = randn({1, 2, 1, 8}, "q");
  const auto k = randn({1, 2, 1, 8}, "k");
  const auto at = [&](const mx::array& x, int position) {
    return apply_rope(make_rope_table(spec, positions(1, position), std::nullopt), x);
  };
  const auto norm = [](const mx::array& x) { return mx::sum(mx::square(x), -1); };
  CHECK(max_difference(norm(at(q, 17)), norm(q)) < 1e-4F);
  const auto score = [&](int i, int j) { return mx::sum(at(q, i) * at(k, j), -1); };
  CHECK(max_difference(score(9, 4), score(105, 100)) < 1e-3F);
  CHECK(max_difference(score(9, 4), score(9, 5)) > 1e-2F);
  CHECK(max_difference(at(q, 0), q) == 0.0F);
}

TEST_CASE("partial rope leaves the features past its dims alone") {
  auto spec = spec_of(RopeType::plain);
  spec.dims = 4;
  const auto x = randn({2, 3, 5, 10}, "x");
  const auto table = make_rope_table(spec, positions(5), std::nullopt);
  const auto y = apply_rope(table, x);
  const auto features = [](const mx::array& a, int begin, int end) {
    return mx::slice(a, {0, 0, 0, begin}, {2, 3, 5, end});
  };
  CHECK(same_bits(features(y, 4, 10), features(x, 4, 10)));
  CHECK(max_difference(features(y, 0, 4), apply_rope(table, features(x, 0, 4))) == 0.0F);
  CHECK(max_difference(features(y, 0, 4), features(x, 0, 4)) > 0.1F);
}

TEST_CASE("rope's gradient agrees with finite differences") {
  for (const int dims : {8, 4}) {
    auto spec = spec_of(RopeType::plain);
    spec.dims = dims;
    const auto table = make_rope_table(spec, positions(5), std::nullopt);
    check_gradients([&](const Arrays& in) { return apply_rope(table, in[0]); }, {randn({2, 3, 5, 8}, "x")});
  }
}

TEST_CASE("half precision stays half precision") {
  const auto table = make_rope_table(spec_of(RopeType::plain), positions(5), std::nullopt);
  CHECK(apply_rope(table, mx::zeros({1, 1, 5, 8}, mx::float16)).dtype() == mx::float16);
}

TEST_CASE("MLX's kernel turns as the table does") {
  for (const auto type : {RopeType::plain, RopeType::linear, RopeType::llama3, RopeType::yarn}) {
    const auto spec = spec_of(type);
    const auto x = mx::random::normal({2, 3, 5, 12}, mx::float32, 0.0F, 1.0F, mx::random::key(3)); // partial
    const mx::array offsets({7, 40}, mx::int32);
    const auto at = mx::expand_dims(offsets, 1) + mx::arange(0, 5, 1, mx::int32);
    auto table = make_rope_table(spec, at, std::nullopt);
    const auto expected = apply_rope(table, x);
    use_rope_kernel(spec, offsets, table);
    CHECK(table.offsets_B.has_value());
    CHECK(mx::max(mx::abs(apply_rope(table, x) - expected)).item<float>() < 1e-5F);
  }
  auto spec = spec_of(RopeType::yarn);
  spec.magnitude = 1.2F;
  auto table = make_rope_table(spec, positions(4), std::nullopt);
  use_rope_kernel(spec, mx::array({0}, mx::int32), table);
  CHECK_FALSE(table.offsets_B.has_value()); // it knows no magnitude
}
