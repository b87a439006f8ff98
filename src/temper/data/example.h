// What training sees of a row: its tokens, and which of them are targets. Host memory only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace temper {

struct Example {
  std::vector<std::int32_t> tokens;
  std::vector<std::uint8_t> supervised; // [tokens]: 1 where the token is a target of the loss
};

// The same, borrowed from a data set that outlives it.
struct ExampleView {
  std::span<const std::int32_t> tokens;
  std::span<const std::uint8_t> supervised;
};

} // namespace temper
