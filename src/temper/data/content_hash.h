// A fast 64-bit hash of much data (gigabytes a second): fingerprints of files and examples, never security.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>

namespace temper {

// Four independent lanes of multiply-and-rotate over 8-byte words, mixed at the end. A stream: the result
// depends on the bytes, not on how they were cut into calls.
class ContentHash {
 public:
  ContentHash& add(const void* data, std::size_t size) {
    const auto* bytes = static_cast<const char*>(data);
    size_ += size;
    while (size > 0) {
      if (held_ == 0 && size >= kBlock) {
        mix(bytes);
        bytes += kBlock;
        size -= kBlock;
        continue;
      }
      const std::size_t taken = std::min(size, kBlock - held_);
      std::memcpy(block_.data() + held_, bytes, taken);
      held_ += taken;
      bytes += taken;
      size -= taken;
      if (held_ == kBlock) {
        mix(block_.data());
        held_ = 0;
      }
    }
    return *this;
  }
  // With its length, so that neighbours can't trade bytes.
  ContentHash& add_text(std::string_view text) {
    return add_value(text.size()).add(text.data(), text.size());
  }
  template <typename T>
  ContentHash& add_value(T value) {
    static_assert(std::is_integral_v<T>, "only values whose bytes are all meaningful");
    const auto wide = static_cast<std::uint64_t>(value);
    return add(&wide, sizeof(wide));
  }

  std::uint64_t value() const {
    ContentHash last = *this;
    std::fill(last.block_.begin() + static_cast<std::ptrdiff_t>(held_), last.block_.end(), '\0');
    last.mix(last.block_.data());
    std::uint64_t mixed = size_;
    for (const auto lane : last.lanes_) {
      mixed = step(mixed, lane);
      mixed ^= mixed >> 29;
    }
    mixed *= kMultiplier;
    return mixed ^ (mixed >> 32);
  }
  std::string hex() const {
    return to_hex(value());
  }
  static std::string to_hex(std::uint64_t value) {
    char digits[17];
    std::snprintf(digits, sizeof(digits), "%016llx", static_cast<unsigned long long>(value));
    return digits;
  }

 private:
  static constexpr std::uint64_t kMultiplier = 0x9e3779b97f4a7c15ULL; // 2^64 / golden ratio, odd
  static constexpr std::size_t kBlock = 32;

  static std::uint64_t step(std::uint64_t lane, std::uint64_t word) {
    return std::rotl((lane ^ word) * kMultiplier, 31);
  }
  void mix(const char* bytes) {
    for (std::size_t i = 0; i < lanes_.size(); ++i) {
      std::uint64_t word = 0;
      std::memcpy(&word, bytes + i * sizeof(word), sizeof(word));
      lanes_[i] = step(lanes_[i], word);
    }
  }

  std::array<std::uint64_t, 4> lanes_ = {1, 2, 3, 4};
  std::array<char, kBlock> block_ = {};
  std::size_t held_ = 0;
  std::uint64_t size_ = 0;
};

} // namespace temper
