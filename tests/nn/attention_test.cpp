#include "temper/nn/attention.h"

#include <map>
#include <numeric>

#include "nn/support.h"

using namespace temper;
using namespace temper::test;

namespace {

constexpr int kRows = 2;
constexpr int kWidth = 20;
constexpr int kHeads = 4;
constexpr int kKeyHeads = 2;
constexpr int kHeadDim = 8;
constexpr float kScale = 0.3F;

struct Place {
  int row;
  int start;
  int length;
};
const std::vector<Place> kDocuments = {{0, 0, 9}, {0, 9, 6}, {1, 0, 1}, {1, 1, 4}, {1, 5, 15}};

const mx::array kQ = randn({kRows, kHeads, kWidth, kHeadDim}, "q");
const mx::array kK = randn({kRows, kKeyHeads, kWidth, kHeadDim}, "k");
const mx::array kV = randn({kRows, kKeyHeads, kWidth, kHeadDim}, "v");

AttentionPlan dense_plan() {
  std::vector<int> segments(kRows * kWidth, -1);
  for (std::size_t m = 0; m < kDocuments.size(); ++m) {
    for (int i = 0; i < kDocuments[m].length; ++i) {
      segments[static_cast<std::size_t>(kDocuments[m].row * kWidth + kDocuments[m].start + i)] =
          static_cast<int>(m);
    }
  }
  AttentionPlan plan;
  plan.segments_BT = mx::array(segments.data(), {kRows, kWidth}, mx::int32);
  return plan;
}

AttentionPlan documents_plan() {
  constexpr int kLongest = 16;
  const int count = static_cast<int>(kDocuments.size());
  std::vector<int> gather(static_cast<std::size_t>(count * kLongest), 0);
  std::vector<int> valid(gather.size(), 0);
  std::vector<int> scatter(kRows * kWidth, 0);
  std::vector<int> real(scatter.size(), 0);
  for (int m = 0; m < count; ++m) {
    const auto& document = kDocuments[static_cast<std::size_t>(m)];
    for (int i = 0; i < document.length; ++i) {
      const auto token = static_cast<std::size_t>(document.row * kWidth + document.start + i);
      const auto place = static_cast<std::size_t>(m * kLongest + i);
      gather[place] = static_cast<int>(token);
      valid[place] = 1;
      scatter[token] = static_cast<int>(place);
      real[token] = 1;
    }
  }
  const auto flags = [](const std::vector<int>& x, const mx::Shape& shape) {
    return mx::astype(mx::array(x.data(), shape, mx::int32), mx::bool_);
  };
  AttentionPlan plan;
  plan.documents =
      DocumentLayout{mx::array(gather.data(), {count, kLongest}, mx::int32), flags(valid, {count, kLongest}),
                     mx::array(scatter.data(), {kRows * kWidth}, mx::int32), flags(real, {kRows * kWidth})};
  return plan;
}

mx::array cut(const mx::array& x, const Place& at) {
  return mx::slice(x, {at.row, 0, at.start, 0}, {at.row + 1, x.shape(1), at.start + at.length, x.shape(3)});
}

// The definition, one query at a time in plain operators: the keys from its window's first to its own.
mx::array plain(const mx::array& q, const mx::array& k, const mx::array& v, int window) {
  const int groups = q.shape(1) / k.shape(1);
  const auto keys = mx::repeat(k, groups, 1);
  const auto values = mx::repeat(v, groups, 1);
  Arrays out;
  for (int t = 0; t < q.shape(2); ++t) {
    const int first = window > 0 ? std::max(0, t - window + 1) : 0;
    const auto part = [&](const mx::array& x, int begin, int end) {
      return mx::slice(x, {0, 0, begin, 0}, {x.shape(0), x.shape(1), end, x.shape(3)});
    };
    const auto scores =
        kScale * mx::matmul(part(q, t, t + 1), mx::transpose(part(keys, first, t + 1), {0, 1, 3, 2}));
    out.push_back(mx::matmul(mx::softmax(scores, -1), part(values, first, t + 1)));
  }
  return mx::concatenate(out, 2);
}

// Each document on its own, put back where it stood; zero where there is none.
mx::array separate(const Arrays& in, int window) {
  auto out = mx::zeros({kRows, kHeads, kWidth, kHeadDim});
  for (const auto& at : kDocuments) {
    const auto o = plain(cut(in[0], at), cut(in[1], at), cut(in[2], at), window);
    const mx::Shape begin{at.row, 0, at.start, 0};
    const mx::Shape end{at.row + 1, kHeads, at.start + at.length, kHeadDim};
    out = mx::slice_update(out, o, begin, end);
  }
  return out;
}

// What padding computes does not matter; only that it reaches nobody.
mx::array real_places(const mx::array& o) {
  const auto real = mx::greater_equal(*dense_plan().segments_BT, mx::array(0));
  return mx::where(mx::reshape(real, {kRows, 1, kWidth, 1}), o, mx::array(0.0F));
}

// The simplest store there is: a concatenation.
class Store final : public KeyValueStore {
 public:
  int offset() const override {
    return offset_;
  }
  StoredKeys update(int layer, const mx::array& k, const mx::array& v, int /*multiple*/) override {
    const auto it = kept_.find(layer);
    const auto all = it == kept_.end() ? std::pair(k, v)
                                       : std::pair(mx::concatenate({it->second.first, k}, 2),
                                                   mx::concatenate({it->second.second, v}, 2));
    kept_.insert_or_assign(layer, all);
    return {all.first, all.second, 0};
  }
  std::vector<mx::array>& state(int) override {
    return state_;
  }
  void advance(int count) override {
    offset_ += count;
  }

 private:
  std::map<int, std::pair<mx::array, mx::array>> kept_;
  std::vector<mx::array> state_;
  int offset_ = 0;
};

mx::array columns(const mx::array& x, int begin, int end) {
  return mx::slice(x, {0, 0, begin, 0}, {x.shape(0), x.shape(1), end, x.shape(3)});
}

} // namespace

TEST_CASE("plain rows: causal, grouped heads, sliding window") {
  for (const int window : {0, 1, 5, kWidth, 100}) {
    CAPTURE(window);
    CHECK(max_difference(attention({}, {kScale, window}, kQ, kK, kV, 0), plain(kQ, kK, kV, window)) < 1e-5F);
  }
}

TEST_CASE("attention in several calls, as very long rows take it, is attention in one") {
  const int groups = kK.shape(1);
  REQUIRE(groups > 1);
  AttentionSettings settings{kScale};
  for (const bool with_sinks : {false, true}) {
    CAPTURE(with_sinks);
    if (with_sinks) {
      settings.sinks_H = mx::arange(kQ.shape(1), mx::float32);
    }
    const auto in_calls = [&](int count) {
      return [&settings, count](const Arrays& in) {
        return causal_attention(settings, in[0], in[1], in[2], count);
      };
    };
    CHECK(max_difference(in_calls(groups)({kQ, kK, kV}), in_calls(1)({kQ, kK, kV})) < 1e-6F);
    const auto found = gradients_of(in_calls(groups), {kQ, kK, kV});
    const auto expected = gradients_of(in_calls(1), {kQ, kK, kV});
    for (std::size_t i = 0; i < expected.size(); ++i) {
      CHECK(relative_difference(found[i], expected[i]) < 1e-5F);
    }
  }
}

TEST_CASE("rule 9: packed documents attend as if each stood alone") {
  for (const int window : {0, 4}) {
    CAPTURE(window);
    const auto expected = separate({kQ, kK, kV}, window);
    for (const auto& plan : {dense_plan(), documents_plan()}) {
      CAPTURE(plan.documents.has_value());
      CHECK(max_difference(real_places(attention(plan, {kScale, window}, kQ, kK, kV, 0)), expected) < 1e-5F);
    }
  }
}

TEST_CASE("rule 9: packed attention's gradients are those of documents that stand alone") {
  for (const int window : {0, 4}) {
    CAPTURE(window);
    const Arrays inputs{kQ, kK, kV};
    const auto expected = gradients_of([&](const Arrays& in) { return separate(in, window); }, inputs);
    for (const auto& plan : {dense_plan(), documents_plan()}) {
      CAPTURE(plan.documents.has_value());
      const auto found = gradients_of(
          [&](const Arrays& in) {
            return real_places(attention(plan, {kScale, window}, in[0], in[1], in[2], 0));
          },
          inputs);
      for (std::size_t i = 0; i < inputs.size(); ++i) {
        CAPTURE(i);
        CHECK(relative_difference(found[i], expected[i]) < 1e-4F);
      }
    }
  }
}

TEST_CASE("gradients of every layout agree with finite differences") {
  AttentionPlan rows;
  for (const auto& plan : {rows, dense_plan(), documents_plan()}) {
    check_gradients(
        [&](const Arrays& in) {
          return real_places(attention(plan, {kScale, 6}, in[0], in[1], in[2], 0));
        },
        {kQ, kK, kV});
  }
}

TEST_CASE("a cache, filled in any steps, gives what the whole text gives") {
  for (const int window : {0, 5}) {
    const auto expected = plain(kQ, kK, kV, window);
    for (const auto& steps : std::vector<std::vector<int>>{{kWidth}, {7, 8, 5}, {4, 1, 1, 13, 1}}) {
      CAPTURE(window);
      CAPTURE(steps.size());
      Store store;
      AttentionPlan plan;
      plan.cache = &store;
      Arrays parts;
      for (const int count : steps) {
        const int begin = store.offset();
        const int end = begin + count;
        for (const int layer : {0, 1}) {
          const auto o = attention(plan, {kScale, window}, columns(kQ, begin, end), columns(kK, begin, end),
                                   columns(kV, begin, end), layer);
          if (layer == 1) {
            parts.push_back(o);
          }
        }
        store.advance(count);
      }
      CHECK(max_difference(mx::concatenate(parts, 2), expected) < 1e-5F);
    }
  }
}

TEST_CASE("left padding is seen by nobody and is never NaN") {
  Store store;
  AttentionPlan plan;
  plan.cache = &store;
  plan.starts_B = mx::array({0, 6}, mx::int32);
  for (const int window : {0, 4}) {
    CAPTURE(window);
    Store fresh;
    plan.cache = &fresh;
    const auto first =
        attention(plan, {kScale, window}, columns(kQ, 0, 12), columns(kK, 0, 12), columns(kV, 0, 12), 0);
    fresh.advance(12);
    const auto second =
        attention(plan, {kScale, window}, columns(kQ, 12, 20), columns(kK, 12, 20), columns(kV, 12, 20), 0);
    const auto o = mx::concatenate({first, second}, 2);
    CHECK(mx::all(mx::isfinite(o)).item<bool>());
    for (const Place text : {Place{0, 0, 20}, Place{1, 6, 14}}) {
      const auto alone = plain(cut(kQ, text), cut(kK, text), cut(kV, text), window);
      CHECK(max_difference(cut(o, text), alone) < 1e-5F);
    }
  }
}

TEST_CASE("half precision stays half precision") {
  const auto half = [](const mx::array& x) { return mx::astype(x, mx::bfloat16); };
  for (const auto& plan : {AttentionPlan{}, dense_plan(), documents_plan()}) {
    const auto o = attention(plan, {kScale, 0}, half(kQ), half(kK), half(kV), 0);
    CHECK(o.dtype() == mx::bfloat16);
    CHECK(mx::all(mx::isfinite(o)).item<bool>());
  }
}
