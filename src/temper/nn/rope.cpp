#include "temper/nn/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "temper/nn/gpu_kernels.h"

namespace temper {
namespace {

constexpr float kTwoPi = 2.0F * std::numbers::pi_v<float>;

// base^(-2k / dims).
std::vector<float> plain_frequencies(int dims, float base) {
  std::vector<float> frequencies(static_cast<std::size_t>(dims / 2));
  for (int k = 0; k < dims / 2; ++k) {
    frequencies[static_cast<std::size_t>(k)] =
        std::pow(base, -2.0F * static_cast<float>(k) / static_cast<float>(dims));
  }
  return frequencies;
}

float dynamic_base(const RopeSpec& spec, int length) {
  const auto limit = static_cast<float>(spec.max_positions);
  const float grown = spec.factor * std::max(static_cast<float>(length), limit) / limit - (spec.factor - 1.0F);
  const auto dims = static_cast<float>(spec.dims);
  return spec.base * std::pow(grown, dims / (dims - 2.0F));
}

float llama3_frequency(const RopeSpec& spec, float frequency) {
  const float wavelength = kTwoPi / frequency;
  const auto original = static_cast<float>(spec.original_max_positions);
  if (wavelength < original / spec.high_freq_factor) {
    return frequency;
  }
  if (wavelength > original / spec.low_freq_factor) {
    return frequency / spec.factor;
  }
  const float smooth =
      (original / wavelength - spec.low_freq_factor) / (spec.high_freq_factor - spec.low_freq_factor);
  return (1.0F - smooth) * frequency / spec.factor + smooth * frequency;
}

// The feature index at which `rotations` full turns fit into the original context (yarn, eq. 17 ff.).
float yarn_correction_dim(const RopeSpec& spec, float rotations) {
  return static_cast<float>(spec.dims) *
         std::log(static_cast<float>(spec.original_max_positions) / (rotations * kTwoPi)) /
         (2.0F * std::log(spec.base));
}

void scale_yarn(const RopeSpec& spec, std::vector<float>& frequencies) {
  float low = yarn_correction_dim(spec, spec.beta_fast);
  float high = yarn_correction_dim(spec, spec.beta_slow);
  if (spec.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0F);
  high = std::min(high, static_cast<float>(spec.dims - 1));
  if (low == high) {
    high += 0.001F;
  }
  for (std::size_t k = 0; k < frequencies.size(); ++k) {
    const float ramp = std::clamp((static_cast<float>(k) - low) / (high - low), 0.0F, 1.0F);
    frequencies[k] = frequencies[k] / spec.factor * ramp + frequencies[k] * (1.0F - ramp);
  }
}

// Per-token frequencies [B, T, K] for dynamic rope: each document stretches by its own length.
mx::array dynamic_frequencies(const RopeSpec& spec, const mx::array& lengths_BT) {
  const auto limit = static_cast<float>(spec.max_positions);
  const auto dims = static_cast<float>(spec.dims);
  const auto length = mx::maximum(mx::astype(lengths_BT, mx::float32), mx::array(limit));
  const auto grown = spec.factor * length / limit - (spec.factor - 1.0F);
  const auto base = spec.base * mx::power(grown, mx::array(dims / (dims - 2.0F)));
  const auto exponents_K = mx::arange(0.0, spec.dims, 2.0, mx::float32) / (-dims);
  return mx::power(mx::expand_dims(base, -1), exponents_K);
}

// Per-token frequencies [B, T, K] for longrope: each document by its own length.
mx::array longrope_frequencies(const RopeSpec& spec, const mx::array& lengths_BT) {
  const auto of_length = [&](int length) {
    const auto host = rope_frequencies(spec, length);
    return mx::array(host.begin(), {static_cast<int>(host.size())}, mx::float32);
  };
  const auto is_long = mx::greater(lengths_BT, mx::array(spec.original_max_positions));
  return mx::where(mx::expand_dims(is_long, -1), of_length(spec.original_max_positions + 1), of_length(0));
}

} // namespace

bool depends_on_length(const RopeSpec& spec) {
  return spec.type == RopeType::dynamic || spec.type == RopeType::longrope;
}

int rope_stage(const RopeSpec& spec, int length) {
  switch (spec.type) {
    case RopeType::dynamic:
      return std::max(0, length - spec.max_positions);
    case RopeType::longrope:
      return length > spec.original_max_positions ? 1 : 0;
    default:
      return 0;
  }
}

std::vector<float> rope_frequencies(const RopeSpec& spec, int length) {
  const float base = spec.type == RopeType::dynamic ? dynamic_base(spec, length) : spec.base;
  auto frequencies = plain_frequencies(spec.dims, base);
  switch (spec.type) {
    case RopeType::linear:
      for (float& frequency : frequencies) {
        frequency /= spec.factor;
      }
      break;
    case RopeType::llama3:
      for (float& frequency : frequencies) {
        frequency = llama3_frequency(spec, frequency);
      }
      break;
    case RopeType::yarn:
      scale_yarn(spec, frequencies);
      break;
    case RopeType::longrope: {
      const auto& factors = length > spec.original_max_positions ? spec.long_factors : spec.short_factors;
      for (std::size_t k = 0; k < frequencies.size(); ++k) {
        frequencies[k] /= factors.at(k);
      }
      break;
    }
    case RopeType::plain:
    case RopeType::dynamic:
      break;
  }
  return frequencies;
}

RopeTable make_rope_table(const RopeSpec& spec, const mx::array& positions_BT,
                          const std::optional<mx::array>& lengths_BT) {
  const auto positions_BT1 = mx::expand_dims(mx::astype(positions_BT, mx::float32), -1);
  const auto frequencies = [&] {
    if (depends_on_length(spec)) {
      const auto lengths = lengths_BT ? *lengths_BT : mx::max(positions_BT, true) + mx::array(1);
      return spec.type == RopeType::dynamic ? dynamic_frequencies(spec, lengths)
                                            : longrope_frequencies(spec, lengths);
    }
    const auto host = rope_frequencies(spec, 0);
    return mx::array(host.begin(), {static_cast<int>(host.size())}, mx::float32);
  }();
  const auto angles_B1TK = mx::expand_dims(positions_BT1 * frequencies, 1);
  return {spec.magnitude * mx::cos(angles_B1TK), spec.magnitude * mx::sin(angles_B1TK)};
}

void use_rope_kernel(const RopeSpec& spec, const mx::array& offsets_B, RopeTable& table) {
  if (depends_on_length(spec) || spec.magnitude != 1.0F) {
    return;
  }
  auto periods = rope_frequencies(spec, 0);
  for (float& frequency : periods) {
    frequency = 1.0F / frequency;
  }
  table.offsets_B = offsets_B;
  table.periods_K = mx::array(periods.begin(), {static_cast<int>(periods.size())}, mx::float32);
}

RopeTable identity_rope_table(int num_tokens, int half) {
  const mx::Shape shape{1, 1, num_tokens, half};
  return {mx::ones(shape, mx::float32), mx::zeros(shape, mx::float32)};
}

mx::array apply_rope(const RopeTable& table, const mx::array& x_BHTD) {
  const int half = table.cos_B1TK.shape(-1);
  if (table.offsets_B) {
    return mx::fast::rope(x_BHTD, 2 * half, false, std::nullopt, 1.0F, *table.offsets_B, table.periods_K);
  }
  const auto cos = mx::astype(table.cos_B1TK, x_BHTD.dtype());
  const auto sin = mx::astype(table.sin_B1TK, x_BHTD.dtype());
  const bool partial = x_BHTD.shape(-1) > 2 * half;
  const auto parts = partial ? mx::split(x_BHTD, mx::Shape{half, 2 * half}, -1) : mx::split(x_BHTD, 2, -1);
  std::vector<mx::array> rotated{parts[0] * cos - parts[1] * sin, parts[1] * cos + parts[0] * sin};
  if (partial) {
    rotated.push_back(parts[2]);
  }
  return mx::concatenate(rotated, -1);
}

bool rope_rows_serves(const RopeTable& table, const mx::array& x_BTC, int num_heads) {
  const int head_dim = x_BTC.shape(2) / num_heads;
  const auto num_tokens = static_cast<std::size_t>(x_BTC.shape(0)) * static_cast<std::size_t>(x_BTC.shape(1));
  const int half = table.cos_B1TK.shape(-1);
  return gpu::serves(x_BTC, {half, head_dim}) &&
         table.cos_B1TK.size() == num_tokens * static_cast<std::size_t>(half);
}

mx::array rope_rows(const RopeTable& table, const mx::array& x_BTC, int num_heads) {
  return gpu::rope(x_BTC, mx::flatten(table.cos_B1TK, 0, 2), mx::flatten(table.sin_B1TK, 0, 2), num_heads);
}

} // namespace temper
