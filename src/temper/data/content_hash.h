// A fast 64-bit hash of much data (gigabytes a second): fingerprints of files and examples, never security.
#pragma once

#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>

namespace temper {

// Four independent lanes of multiply-and-rotate over 8-byte words, mixed at the end. The result depends on
// the bytes and on how they were cut into add() calls.
class ContentHash {
 public:
  ContentHash& add(const void* data, std::size_t size) {
    const auto* bytes = static_cast<const char*>(data);
    std::size_t left = size;
    for (; left >= sizeof(lanes_); left -= sizeof(lanes_), bytes += sizeof(lanes_)) {
      std::uint64_t words[4];
      std::memcpy(words, bytes, sizeof(words));
      for (int i = 0; i < 4; ++i) {
        lanes_[i] = step(lanes_[i], words[i]);
      }
    }
    for (int lane = 0; left > 0; lane = (lane + 1) % 4) {
      std::uint64_t word = 0;
      const std::size_t taken = left < sizeof(word) ? left : sizeof(word);
      std::memcpy(&word, bytes, taken);
      lanes_[lane] = step(lanes_[lane], word);
      bytes += taken;
      left -= taken;
    }
    lanes_[3] = step(lanes_[3], size);
    return *this;
  }
  ContentHash& add(std::string_view bytes) {
    return add(bytes.data(), bytes.size());
  }
  template <typename T>
  ContentHash& add_value(const T& value) {
    static_assert(std::is_integral_v<T>, "only values whose bytes are all meaningful");
    return add(&value, sizeof(value));
  }

  std::uint64_t value() const {
    std::uint64_t mixed = 0;
    for (const auto lane : lanes_) {
      mixed = step(mixed, lane);
      mixed ^= mixed >> 29;
    }
    mixed *= kMultiplier;
    return mixed ^ (mixed >> 32);
  }
  std::string hex() const {
    char digits[17];
    std::snprintf(digits, sizeof(digits), "%016llx", static_cast<unsigned long long>(value()));
    return digits;
  }

 private:
  static constexpr std::uint64_t kMultiplier = 0x9e3779b97f4a7c15ULL; // 2^64 / golden ratio, odd

  static std::uint64_t step(std::uint64_t lane, std::uint64_t word) {
    return std::rotl((lane ^ word) * kMultiplier, 31);
  }

  std::uint64_t lanes_[4] = {1, 2, 3, 4};
};

} // namespace temper
