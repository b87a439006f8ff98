#include "temper/infer/sampler.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "temper/base/error.h"

namespace temper {
namespace {

void require(bool holds, const std::string& option, float value, const std::string& range) {
  if (!holds) {
    auto text = std::to_string(value);
    text.erase(text.find_last_not_of('0') + 1);
    if (text.back() == '.') {
      text.pop_back();
    }
    throw ConfigError(option + ": " + text + " is out of range; it must be " + range);
  }
}

bool is_part(float share) {
  return share > 0 && share < 1;
}

mx::array log_softmax(const mx::array& logits_BV) {
  const auto logits = mx::astype(logits_BV, mx::float32);
  return logits - mx::logsumexp(logits, -1, true);
}

// splitmix64's finalizer (Steele et al. 2014).
std::uint64_t mixed(std::uint64_t state) {
  state = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9ULL;
  state = (state ^ (state >> 27)) * 0x94d049bb133111ebULL;
  return state ^ (state >> 31);
}

// A key for each draw, uint32 [B, 2].
mx::array draw_keys(std::uint64_t seed, std::span<const Draw> draws) {
  constexpr std::uint64_t kOdd = 0x9e3779b97f4a7c15ULL;
  std::vector<std::uint32_t> words;
  for (const auto& draw : draws) {
    const auto key = mixed(mixed(mixed(seed + kOdd) + draw.text * kOdd) + (draw.position + 1) * kOdd);
    words.push_back(static_cast<std::uint32_t>(key >> 32));
    words.push_back(static_cast<std::uint32_t>(key));
  }
  return mx::array(words.data(), {static_cast<int>(draws.size()), 2}, mx::uint32);
}

} // namespace

void validate(const SamplerOptions& o) {
  require(std::isfinite(o.temperature) && o.temperature >= 0, "temperature", o.temperature, "at least 0");
  require(o.top_p >= 0 && o.top_p <= 1, "top_p", o.top_p, "from 0 to 1");
  require(o.top_k >= 0, "top_k", static_cast<float>(o.top_k), "at least 0");
  require(o.min_p >= 0 && o.min_p <= 1, "min_p", o.min_p, "from 0 to 1");
  require(std::isfinite(o.repetition_penalty) && o.repetition_penalty >= 0, "repetition_penalty",
          o.repetition_penalty, "at least 0");
  require(o.repetition_context >= 1, "repetition_context", static_cast<float>(o.repetition_context),
          "at least 1");
}

bool has_repetition_penalty(const SamplerOptions& options) {
  return options.repetition_penalty != 0 && options.repetition_penalty != 1;
}

mx::array penalize_repetition(const mx::array& logits_BV, const mx::array& recent_BR, float penalty) {
  const auto recent = mx::take_along_axis(logits_BV, recent_BR, 1);
  const auto factor = mx::array(penalty, logits_BV.dtype());
  const auto changed = mx::where(mx::less(recent, mx::array(0.0F)), recent * factor, recent / factor);
  return mx::put_along_axis(logits_BV, recent_BR, changed, 1);
}

mx::array filter_tokens(const SamplerOptions& options, const mx::array& logits_BV) {
  auto log_probability = log_softmax(logits_BV);
  const int vocab = logits_BV.shape(1);
  const bool cuts_k = options.top_k > 0 && options.top_k < vocab;
  if (!is_part(options.top_p) && !cuts_k && options.min_p == 0) {
    return log_probability;
  }
  // Each filter keeps a prefix of the tokens in falling order, so one sort serves them all.
  const auto order = mx::argsort(-log_probability, 1);
  const auto sorted = mx::take_along_axis(log_probability, order, 1);
  const auto rank = mx::expand_dims(mx::arange(0, vocab, 1, mx::int32), 0);
  auto keep = mx::broadcast_to(mx::less(rank, mx::array(cuts_k ? options.top_k : vocab)), sorted.shape());
  if (is_part(options.top_p)) {
    const auto mass_above = mx::cumsum(mx::exp(sorted), 1, false, false);
    keep = mx::logical_and(keep, mx::less(mass_above, mx::array(options.top_p)));
  }
  if (options.min_p > 0) {
    const auto least = mx::max(sorted, 1, true) + mx::array(std::log(options.min_p));
    keep = mx::logical_and(keep, mx::greater_equal(sorted, least));
  }
  const auto kept = mx::where(keep, sorted, mx::array(-std::numeric_limits<float>::infinity()));
  return mx::put_along_axis(log_probability, order, kept, 1);
}

Sampler::Sampler(const SamplerOptions& options) : options_(options) {
  validate(options);
}

mx::array Sampler::sample(const mx::array& logits_BV, const std::optional<mx::array>& recent_BR,
                          std::span<const Draw> draws) const {
  const auto logits = has_repetition_penalty(options_) && recent_BR
                          ? penalize_repetition(logits_BV, *recent_BR, options_.repetition_penalty)
                          : logits_BV;
  if (options_.temperature == 0) {
    return mx::astype(mx::argmax(logits, 1), mx::int32);
  }
  const auto scaled = filter_tokens(options_, logits) / mx::array(options_.temperature);
  const int vocab = logits.shape(1);
  const std::function<mx::array(const mx::array&)> noise = [vocab](const mx::array& key) {
    return mx::random::gumbel({vocab}, mx::float32, key);
  };
  return mx::astype(mx::argmax(scaled + mx::vmap(noise)(draw_keys(options_.seed, draws)), 1), mx::int32);
}

} // namespace temper
