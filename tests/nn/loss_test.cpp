#include "temper/nn/loss.h"

#include "nn/support.h"

using namespace temper;
using namespace temper::test;

namespace {

constexpr int kTokens = 20;
constexpr int kHidden = 8;
constexpr int kVocab = 17;

const mx::array kStates = randn({kTokens, kHidden}, "hidden");
const mx::array kHead = randn({kVocab, kHidden}, "head");

// Five supervised positions of uneven weight and three places of padding.
LossTargets targets() {
  return {mx::array({2, 3, 7, 11, 19, 0, 0, 0}, mx::int32), mx::array({4, 16, 0, 9, 1, 0, 0, 0}, mx::int32),
          mx::array({0.3F, 0.1F, 0.2F, 0.15F, 0.25F, 0.0F, 0.0F, 0.0F})};
}

// -log softmax(hidden W^T)[target] in double precision, on the host.
double by_hand() {
  const auto t = targets();
  auto states = mx::contiguous(kStates);
  auto head = mx::contiguous(kHead);
  auto weights = t.weights_S;
  auto ids = t.targets_S;
  auto places = t.positions_S;
  mx::eval(states, head, weights, ids, places);
  double loss = 0;
  for (int s = 0; s < 8; ++s) {
    const auto row = places.data<int>()[s] * kHidden;
    std::vector<double> logits(kVocab, 0.0);
    double sum = 0;
    for (int v = 0; v < kVocab; ++v) {
      for (int e = 0; e < kHidden; ++e) {
        logits[static_cast<std::size_t>(v)] +=
            double{states.data<float>()[row + e]} * double{head.data<float>()[v * kHidden + e]};
      }
      sum += std::exp(logits[static_cast<std::size_t>(v)]);
    }
    const auto target = static_cast<std::size_t>(ids.data<int>()[s]);
    loss += double{weights.data<float>()[s]} * (std::log(sum) - logits[target]);
  }
  return loss;
}

Arrays gradients(const Function& loss) {
  auto result = mx::value_and_grad(loss, std::vector<int>{0, 1})(Arrays{kStates, kHead}).second;
  mx::eval(result);
  return result;
}

} // namespace

TEST_CASE("the loss is the weighted cross entropy of the selected positions, whatever the chunks") {
  const double expected = by_hand();
  CHECK(plain_cross_entropy(kStates, {kHead}, targets()).item<float>() ==
        doctest::Approx(expected).epsilon(1e-6));
  for (const int chunk : {0, 1, 3, 8, 100}) {
    CAPTURE(chunk);
    CHECK(chunked_cross_entropy(kStates, {kHead, true}, targets(), chunk).item<float>() ==
          doctest::Approx(expected).epsilon(1e-6));
    CHECK(cross_entropy_value(kStates, {kHead}, targets(), chunk).item<float>() ==
          doctest::Approx(expected).epsilon(1e-6));
  }
}

TEST_CASE("chunked gradients agree with the plain twin's, in hidden states and head") {
  const auto expected =
      gradients([](const Arrays& in) { return plain_cross_entropy(in[0], {in[1]}, targets()); });
  for (const int chunk : {0, 1, 3, 8}) {
    CAPTURE(chunk);
    // The factor shows that the incoming cotangent is used.
    const auto found = gradients([&](const Arrays& in) {
      return 2.0F * chunked_cross_entropy(in[0], {in[1], true}, targets(), chunk);
    });
    CHECK(relative_difference(found[0] * 0.5F, expected[0]) < 1e-5F);
    CHECK(relative_difference(found[1] * 0.5F, expected[1]) < 1e-5F);
  }
}

TEST_CASE("loss gradients agree with finite differences") {
  check_gradients(
      [](const Arrays& in) {
        return chunked_cross_entropy(in[0], {in[1], true}, targets(), 3);
      },
      {kStates, kHead});
}

TEST_CASE("a frozen head gets no gradient, the hidden states the same") {
  const auto both = gradients([](const Arrays& in) {
    return chunked_cross_entropy(in[0], {in[1], true}, targets(), 3);
  });
  const auto frozen = gradients([](const Arrays& in) {
    return chunked_cross_entropy(in[0], {in[1], false}, targets(), 3);
  });
  CHECK(same_bits(both[0], frozen[0]));
  CHECK(mx::max(mx::abs(frozen[1])).item<float>() == 0.0F);
}

TEST_CASE("padding of weight 0 changes neither loss nor gradient, though it repeats a position") {
  const auto t = targets();
  const auto cut = [](const mx::array& x) { return mx::slice(x, {0}, {5}); };
  const LossTargets real{cut(t.positions_S), cut(t.targets_S), cut(t.weights_S)};
  CHECK(chunked_cross_entropy(kStates, {kHead, true}, t, 4).item<float>() ==
        doctest::Approx(chunked_cross_entropy(kStates, {kHead, true}, real, 0).item<float>()).epsilon(1e-6));
  const auto with = gradients([&](const Arrays& in) {
    return chunked_cross_entropy(in[0], {in[1], true}, t, 4);
  });
  const auto without = gradients([&](const Arrays& in) {
    return chunked_cross_entropy(in[0], {in[1], true}, real, 0);
  });
  CHECK(relative_difference(with[0], without[0]) < 1e-6F);
  CHECK(relative_difference(with[1], without[1]) < 1e-6F);
  // Position 0 is padding's and no target: nothing reaches it.
  CHECK(mx::max(mx::abs(mx::slice(with[0], {0, 0}, {1, kHidden}))).item<float>() == 0.0F);
}

TEST_CASE("a position selected twice gets both gradients") {
  const LossTargets twice{mx::array({5, 5}, mx::int32), mx::array({1, 2}, mx::int32), mx::array({0.5F, 0.5F})};
  const auto expected = gradients([&](const Arrays& in) { return plain_cross_entropy(in[0], {in[1]}, twice); });
  const auto found = gradients([&](const Arrays& in) {
    return chunked_cross_entropy(in[0], {in[1], true}, twice, 1);
  });
  CHECK(relative_difference(found[0], expected[0]) < 1e-5F);
}

TEST_CASE("half precision sums its logits in fp32") {
  const auto states = mx::astype(kStates, mx::bfloat16);
  auto loss = chunked_cross_entropy(states, {kHead, true}, targets(), 3);
  CHECK(loss.dtype() == mx::float32);
  CHECK(loss.item<float>() == doctest::Approx(by_hand()).epsilon(0.02));
  auto huge = chunked_cross_entropy(kStates * 1e3F, {kHead, true}, targets(), 3);
  CHECK(std::isfinite(huge.item<float>()));
}

TEST_CASE("a head's adapter and magnitude have the plain twin's loss and gradients, in chunks, with dropout") {
  constexpr int kRank = 3;
  const Arrays inputs{kStates, kHead, randn({kHidden, kRank}, "a"), randn({kRank, kVocab}, "b"),
                      mx::abs(randn({kVocab}, "m"))};
  for (const float rate : {0.0F, 0.4F}) {
    for (const bool trainable : {false, true}) {
      const auto head_of = [&](const Arrays& in) {
        Head head{in[1]};
        head.trainable = trainable;
        head.lora_a_ER = in[2];
        head.lora_b_RV = in[3];
        head.magnitude_V = in[4];
        head.softcap = 5.0F;
        head.logit_scale = 0.7F;
        head.dropout = rate;
        head.dropout_key = named_key(3, "drop");
        return head;
      };
      const auto gradients_by = [&](const Function& loss) {
        auto result = mx::value_and_grad(loss, std::vector<int>{0, 1, 2, 3, 4})(inputs);
        mx::eval(result.second);
        result.second.insert(result.second.begin(), result.first);
        return result.second;
      };
      const auto expected =
          gradients_by([&](const Arrays& in) { return plain_cross_entropy(in[0], head_of(in), targets()); });
      const auto found = gradients_by(
          [&](const Arrays& in) { return chunked_cross_entropy(in[0], head_of(in), targets(), 3); });
      for (std::size_t i = 0; i < expected.size(); ++i) {
        CAPTURE(i);
        if (i == 2 && !trainable) {
          CHECK(mx::max(mx::abs(found[i])).item<float>() == 0.0F);
        } else {
          CHECK(relative_difference(found[i], expected[i]) < 1e-4F);
        }
      }
      CHECK(cross_entropy_value(kStates, head_of(inputs), targets(), 3).item<float>() ==
            doctest::Approx(mx::array(expected[0]).item<float>()));
    }
  }
}
