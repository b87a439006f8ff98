// SHA-256, for checking files against the sums that their publishers give.
// Source: FIPS 180-4.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace temper {

class Sha256 {
 public:
  Sha256& add(std::string_view bytes);
  // The 32 bytes of the sum of all that was added; what is added later continues before the padding.
  std::string digest() const;
  // The same as 64 lower-case hexadecimal digits.
  std::string hex() const;

 private:
  void compress(const unsigned char* block);

  std::array<std::uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<unsigned char, 64> pending_{};
  std::uint64_t num_bytes_ = 0;
};

} // namespace temper
