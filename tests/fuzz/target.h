// What the fuzzed readers share. A target is LLVMFuzzerTestOneInput, for libFuzzer (preset `fuzz`) and for
// replay.cpp: it takes any bytes and must come back; a sanitizer's finding or an exception ends the process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace temper::fuzz {

inline void require(bool holds) {
  if (!holds) {
    std::abort();
  }
}

} // namespace temper::fuzz
