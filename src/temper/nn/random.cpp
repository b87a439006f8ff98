#include "temper/nn/random.h"

#include <initializer_list>

namespace temper {

mx::array named_key(std::uint64_t seed, std::string_view name) {
  // FNV-1a of the name, mixed with the seed by splitmix64's finalizer (Steele et al. 2014).
  std::uint64_t state = 0xcbf29ce484222325ULL;
  for (const char byte : name) {
    state = (state ^ static_cast<unsigned char>(byte)) * 0x100000001b3ULL;
  }
  state += (seed + 1) * 0x9e3779b97f4a7c15ULL;
  state = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9ULL;
  state = (state ^ (state >> 27)) * 0x94d049bb133111ebULL;
  state ^= state >> 31;
  return mx::array({static_cast<std::uint32_t>(state >> 32), static_cast<std::uint32_t>(state)}, mx::uint32);
}

mx::array fold_in(const mx::array& key, std::uint32_t site) {
  // Hashing the shifted key keeps the keys of neighbouring sites and steps unrelated.
  const auto shifted = key + mx::array({site * 0x9e3779b9U, site ^ 0x85ebca6bU}, mx::uint32);
  return mx::random::bits({2}, 4, shifted);
}

mx::array dropout_mask(const mx::Shape& shape, float probability, const mx::array& key) {
  return mx::random::bernoulli(mx::array(1.0F - probability), shape, key);
}

mx::array masked(const mx::array& x, const mx::array& mask, float probability) {
  return mx::where(mask, x * mx::array(1.0F / (1.0F - probability), x.dtype()), mx::zeros({}, x.dtype()));
}

mx::array dropout(const mx::array& x, float probability, const mx::array& key) {
  return masked(x, dropout_mask(x.shape(), probability, key), probability);
}

} // namespace temper
