#include "temper/infer/sampler.h"

#include <doctest/doctest.h>

#include <cmath>
#include <set>

#include "temper/base/error.h"

using namespace temper;

namespace {

mx::array logits_of(const std::vector<float>& probabilities) {
  std::vector<float> logs;
  for (const float p : probabilities) {
    logs.push_back(std::log(p));
  }
  return mx::array(logs.data(), {1, static_cast<int>(logs.size())}, mx::float32);
}

// The tokens that the filters leave, of these probabilities.
std::set<int> kept(const SamplerOptions& options, const std::vector<float>& probabilities) {
  const auto filtered = filter_tokens(options, logits_of(probabilities));
  mx::eval(filtered);
  std::set<int> tokens;
  for (int i = 0; i < static_cast<int>(probabilities.size()); ++i) {
    if (std::isfinite(filtered.data<float>()[i])) {
      tokens.insert(i);
    }
  }
  return tokens;
}

std::vector<Draw> at(int position) {
  return {{.text = 0, .position = static_cast<std::uint64_t>(position)}};
}

// How often each token is drawn over `draws` positions.
std::vector<double> frequencies(const SamplerOptions& options, const std::vector<float>& probabilities,
                                int draws) {
  const Sampler sampler(options);
  const auto logits = logits_of(probabilities);
  std::vector<mx::array> drawn;
  for (int i = 0; i < draws; ++i) {
    drawn.push_back(sampler.sample(logits, std::nullopt, at(i)));
  }
  mx::eval(drawn);
  std::vector<double> counts(probabilities.size(), 0.0);
  for (const auto& token : drawn) {
    counts.at(static_cast<std::size_t>(token.data<std::int32_t>()[0])) += 1.0 / draws;
  }
  return counts;
}

std::vector<std::int32_t> draw(std::uint64_t seed, int count) {
  const Sampler sampler({.temperature = 1.0F, .seed = seed});
  std::vector<std::int32_t> tokens;
  for (int i = 0; i < count; ++i) {
    tokens.push_back(sampler.sample(mx::zeros({1, 1000}), std::nullopt, at(i)).item<std::int32_t>());
  }
  return tokens;
}

const std::vector<float> kFive{0.1F, 0.4F, 0.05F, 0.3F, 0.15F};

} // namespace

TEST_CASE("temperature 0 takes the likeliest token, whatever the filters") {
  const Sampler sampler({.temperature = 0.0F, .top_p = 0.1F, .top_k = 1, .min_p = 0.9F});
  CHECK(sampler.sample(logits_of(kFive), std::nullopt, at(0)).item<std::int32_t>() == 1);
}

TEST_CASE("draws follow the distribution at temperature 1 and its power at others") {
  const int draws = 4000; // the standard error is below 0.008
  const auto plain = frequencies({.temperature = 1.0F, .seed = 3}, kFive, draws);
  for (std::size_t i = 0; i < kFive.size(); ++i) {
    CHECK(std::abs(plain[i] - kFive[i]) < 0.03);
  }
  const auto cold = frequencies({.temperature = 0.5F, .seed = 4}, kFive, draws);
  double sum = 0;
  for (const float p : kFive) {
    sum += p * p;
  }
  for (std::size_t i = 0; i < kFive.size(); ++i) {
    CHECK(std::abs(cold[i] - kFive[i] * kFive[i] / sum) < 0.03);
  }
}

TEST_CASE("a seed repeats its draws; another seed does not") {
  CHECK(draw(1, 20) == draw(1, 20));
  CHECK(draw(1, 20) != draw(2, 20));
  const auto tokens = draw(1, 20);
  CHECK(std::set<std::int32_t>(tokens.begin(), tokens.end()).size() > 15); // positions differ too
}

TEST_CASE("what a row draws does not depend on the rows beside it") {
  const Sampler sampler({.temperature = 1.0F, .top_k = 400, .seed = 5});
  const auto logits = mx::random::normal({4, 500}, mx::float32, 0.0F, 1.0F, mx::random::key(7));
  const std::vector<Draw> draws{{3, 0}, {0, 9}, {3, 9}, {8, 2}};
  const auto together = sampler.sample(logits, std::nullopt, draws);
  for (int row = 0; row < 4; ++row) {
    const auto own = mx::slice(logits, {row, 0}, {row + 1, 500});
    auto alone = sampler.sample(own, std::nullopt, std::span(draws).subspan(static_cast<std::size_t>(row), 1));
    auto in_batch = mx::take(together, row);
    CHECK(alone.item<std::int32_t>() == in_batch.item<std::int32_t>());
  }
  const auto same = mx::zeros({4, 500});
  const auto tokens = sampler.sample(same, std::nullopt, draws);
  mx::eval(tokens);
  const auto* data = tokens.data<std::int32_t>();
  CHECK(std::set<std::int32_t>(data, data + 4).size() == 4); // text and position both count
}

TEST_CASE("top-k keeps exactly k tokens, ties included") {
  CHECK(kept({.top_k = 2}, kFive) == std::set<int>{1, 3});
  CHECK(kept({.top_k = 1}, kFive) == std::set<int>{1});
  CHECK(kept({.top_k = 5}, kFive).size() == 5);
  CHECK(kept({.top_k = 99}, kFive).size() == 5);
  CHECK(kept({.top_k = 0}, kFive).size() == 5);
  CHECK(kept({.top_k = 2}, {0.25F, 0.25F, 0.25F, 0.25F}).size() == 2);
}

TEST_CASE("top-p keeps the fewest tokens that hold the mass, never none") {
  CHECK(kept({.top_p = 0.39F}, kFive) == std::set<int>{1});
  CHECK(kept({.top_p = 0.6F}, kFive) == std::set<int>{1, 3});
  CHECK(kept({.top_p = 0.71F}, kFive) == std::set<int>{1, 3, 4});
  CHECK(kept({.top_p = 1e-9F}, kFive) == std::set<int>{1});
  CHECK(kept({.top_p = 1.0F}, kFive).size() == 5);
  CHECK(kept({.top_p = 0.0F}, kFive).size() == 5);
}

TEST_CASE("min-p keeps tokens near enough to the likeliest") {
  CHECK(kept({.min_p = 0.5F}, kFive) == std::set<int>{1, 3});
  CHECK(kept({.min_p = 0.2F}, kFive) == std::set<int>{0, 1, 3, 4});
  CHECK(kept({.min_p = 1.0F}, kFive) == std::set<int>{1});
  CHECK(kept({.min_p = 0.0F}, kFive).size() == 5);
}

TEST_CASE("filters combine to what all of them keep") {
  CHECK(kept({.top_p = 0.9F, .top_k = 3, .min_p = 0.5F}, kFive) == std::set<int>{1, 3});
  CHECK(kept({.top_p = 0.9F, .top_k = 1, .min_p = 0.01F}, kFive) == std::set<int>{1});
}

TEST_CASE("excluded tokens are never drawn and half precision is filtered in fp32") {
  const auto drawn = frequencies({.temperature = 5.0F, .top_k = 2}, kFive, 300);
  CHECK(drawn[1] + drawn[3] == doctest::Approx(1));
  const auto half = mx::astype(logits_of(kFive), mx::bfloat16);
  CHECK(filter_tokens({.top_k = 2}, half).dtype() == mx::float32);
}

TEST_CASE("the repetition penalty lowers recent tokens, whatever the sign of their logits") {
  const mx::array logits({2.0F, -2.0F, 1.0F, -1.0F}, {1, 4});
  const mx::array recent({0, 1, 1}, {1, 3}, mx::int32);
  const auto penalized = penalize_repetition(logits, recent, 2.0F);
  mx::eval(penalized);
  const auto* data = penalized.data<float>();
  CHECK(std::vector<float>(data, data + 4) == std::vector<float>{1.0F, -4.0F, 1.0F, -1.0F});
  const Sampler sampler({.repetition_penalty = 3.0F});
  CHECK(sampler.sample(logits, recent, at(0)).item<std::int32_t>() == 2);
  CHECK(sampler.sample(logits, std::nullopt, at(0)).item<std::int32_t>() == 0);
}

TEST_CASE("options out of range are named") {
  const auto refuses = [](const SamplerOptions& options, const char* message) {
    CHECK_THROWS_WITH_AS(Sampler{options}, message, ConfigError);
  };
  refuses({.temperature = -1.0F}, "temperature: -1 is out of range; it must be at least 0");
  refuses({.top_p = 1.5F}, "top_p: 1.5 is out of range; it must be from 0 to 1");
  refuses({.top_k = -2}, "top_k: -2 is out of range; it must be at least 0");
  refuses({.min_p = -0.5F}, "min_p: -0.5 is out of range; it must be from 0 to 1");
  refuses({.repetition_penalty = -1.0F}, "repetition_penalty: -1 is out of range; it must be at least 0");
  refuses({.repetition_context = 0}, "repetition_context: 0 is out of range; it must be at least 1");
}
