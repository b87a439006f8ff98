// The formats of GGUF files, packed and unpacked by ggml's own code (third_party/ggml): host buffers only.
// A row is cut into blocks of `block_weights` weights, each of `block_bytes` bytes with its scales.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace temper {

struct GgmlFormat {
  std::string name;               // ggml's: "f32", "q4_0", "q6_K"
  std::uint32_t id = 0;           // as GGUF files hold it
  std::int64_t block_weights = 1; // of a row
  std::size_t block_bytes = 0;
  bool can_quantize = true; // else it is only read: its quantizer wants statistics of a model's activations

  // A row of `in_features` weights, which are whole blocks.
  std::size_t row_bytes(std::int64_t in_features) const;
};

// Those that weights are stored in: f32, f16, bf16 and all that ggml can unpack.
const std::vector<GgmlFormat>& ggml_formats();

// nullptr if there is none of this id (one of integers, or newer than ours).
const GgmlFormat* find_ggml_format(std::uint32_t id);

// By name, in either case ("Q4_0"). Throws ConfigError naming those there are.
const GgmlFormat& find_ggml_format(std::string_view name);

// weights [rows, in_features], row after row -> their bytes, on all cores. Throws ModelError, with `name` (the
// tensor's), if rows are not whole blocks, a weight is not finite (blocks cannot say so) or the type is only
// read.
std::vector<std::byte> ggml_quantize(const GgmlFormat& type, std::span<const float> weights,
                                     std::int64_t in_features, const std::string& name);

// What ggml_quantize() made of them, or anything else: every bit pattern is some weight. `out` holds as many
// weights as the whole blocks of `bytes`. Throws ModelError, with `name`, if the sizes differ.
void ggml_dequantize(const GgmlFormat& type, std::span<const std::byte> bytes, std::span<float> out,
                     const std::string& name);

} // namespace temper
