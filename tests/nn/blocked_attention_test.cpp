// Attention in blocks against the plain expression and finite differences.
#include "temper/nn/blocked_attention.h"

#include "nn/support.h"

using namespace temper;
using namespace temper::test;

namespace {

constexpr int kRows = 2;
constexpr int kWidth = 20;
constexpr int kHeadDim = 8;
constexpr float kScale = 0.3F;

const mx::array kQ = randn({kRows, 4, kWidth, kHeadDim}, "q");
const mx::array kK = randn({kRows, 2, kWidth, kHeadDim}, "k");
const mx::array kV = randn({kRows, 2, kWidth, kHeadDim}, "v");
const mx::array kSinks = randn({4}, "sinks");

// Rows of documents of 9, 6 and 5 tokens, and of 1, 4 and 15.
mx::array segments() {
  std::vector<int> ids;
  for (const int length : {9, 6, 5, 1, 4, 15}) {
    ids.insert(ids.end(), static_cast<std::size_t>(length), length);
  }
  return mx::array(ids.data(), {kRows, kWidth}, mx::int32);
}

struct Case {
  int window;
  float softcap;
  bool sinks;
  bool packed;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const int window : {0, 2, 6}) {
    for (const float softcap : {0.0F, 1.5F}) {
      for (const bool sinks : {false, true}) {
        for (const bool packed : {false, true}) {
          all.push_back({window, softcap, sinks, packed});
        }
      }
    }
  }
  return all;
}

AttentionSettings settings_of(const Case& one, const Arrays& in) {
  return {kScale, one.window, one.softcap, one.sinks ? std::optional(in[3]) : std::nullopt};
}

// The definition: all scores at once, in plain operators.
mx::array plain(const Case& one, const Arrays& in) {
  const auto scores_of = mx::matmul(in[0], mx::swapaxes(mx::repeat(in[1], 2, 1), -1, -2)) * kScale;
  auto s = one.softcap > 0.0F ? one.softcap * mx::tanh(scores_of / one.softcap) : scores_of;
  const auto query = mx::reshape(mx::arange(kWidth), {kWidth, 1});
  const auto key = mx::reshape(mx::arange(kWidth), {1, kWidth});
  auto seen = mx::less_equal(key, query);
  if (one.window > 0) {
    seen = mx::logical_and(seen, mx::greater(key, query - mx::array(one.window)));
  }
  if (one.packed) {
    const auto ids = segments();
    seen =
        mx::logical_and(seen, mx::expand_dims(mx::equal(mx::expand_dims(ids, 2), mx::expand_dims(ids, 1)), 1));
  }
  const auto powers = mx::where(seen, mx::exp(s), mx::array(0.0F));
  auto total = mx::sum(powers, -1, true);
  if (one.sinks) {
    total = total + mx::reshape(mx::exp(in[3]), {1, 4, 1, 1});
  }
  return mx::matmul(powers / total, mx::repeat(in[2], 2, 1));
}

mx::array blocked(const Case& one, const Arrays& in, int block) {
  return blocked_attention(settings_of(one, in), in[0], in[1], in[2],
                           one.packed ? std::optional(segments()) : std::nullopt, block);
}

} // namespace

TEST_CASE("attention in blocks is attention, with its gradients: windows, soft caps, sinks, packed rows") {
  for (const auto& one : cases()) {
    CAPTURE(one.window);
    CAPTURE(one.softcap);
    CAPTURE(one.sinks);
    CAPTURE(one.packed);
    Arrays inputs{kQ, kK, kV};
    if (one.sinks) {
      inputs.push_back(kSinks);
    }
    const auto expected = plain(one, inputs);
    const auto slopes = gradients_of([&](const Arrays& in) { return plain(one, in); }, inputs);
    for (const int block : {1, 3, 7, kWidth, 64}) {
      CAPTURE(block);
      CHECK(max_difference(blocked(one, inputs, block), expected) < 1e-5F);
      const auto found = gradients_of([&](const Arrays& in) { return blocked(one, in, block); }, inputs);
      for (std::size_t i = 0; i < inputs.size(); ++i) {
        CAPTURE(i);
        CHECK(relative_difference(found[i], slopes[i]) < 1e-5F);
      }
    }
  }
}

TEST_CASE("gradients of attention in blocks agree with finite differences") {
  const Case one{6, 1.5F, true, true};
  check_gradients([&](const Arrays& in) { return blocked(one, in, 7); }, {kQ, kK, kV, kSinks});
}

TEST_CASE("half precision stays half precision, near the plain result") {
  const Case one{0, 0.0F, false, false};
  const auto half = [](const mx::array& x) { return mx::astype(x, mx::bfloat16); };
  const auto o = blocked(one, {half(kQ), half(kK), half(kV)}, 7);
  CHECK(o.dtype() == mx::bfloat16);
  CHECK(max_difference(o, plain(one, {kQ, kK, kV})) < 0.05F);
}

// Four times the length: the plain expression's scores grow sixteenfold.
TEST_CASE("memory grows linearly with length") {
  const auto peak = [](int width) {
    const auto q = randn({1, 4, width, 32}, "long q");
    const auto k = randn({1, 2, width, 32}, "long k");
    mx::eval({q, k});
    mx::reset_peak_memory();
    const auto before = mx::get_active_memory();
    gradients_of([&](const Arrays& in) { return blocked_attention({kScale}, in[0], in[1], in[1], {}, 64); },
                 {q, k});
    return static_cast<double>(mx::get_peak_memory() - before);
  };
  const double at_512 = peak(512);
  CHECK(peak(2048) < 5.0 * at_512);
}
