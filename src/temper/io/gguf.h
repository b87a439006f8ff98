// GGUF files: read and checked by our own code before anything of them is mapped, and written a tensor at a
// time. Format: docs/formats/gguf.md; source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md,
// versions 2 and 3.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace temper {

// How ggml stores a tensor's values; the numbers are the file's.
enum class GgufType : std::uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q8_1 = 9,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  q8_k = 15,
  iq2_xxs = 16,
  iq2_xs = 17,
  iq3_xxs = 18,
  iq1_s = 19,
  iq4_nl = 20,
  iq3_s = 21,
  iq2_s = 22,
  iq4_xs = 23,
  i8 = 24,
  i16 = 25,
  i32 = 26,
  i64 = 27,
  f64 = 28,
  iq1_m = 29,
  bf16 = 30,
  tq1_0 = 34,
  tq2_0 = 35,
  mxfp4 = 39,
  nvfp4 = 40,
  q1_0 = 41,
};

// `block_bytes` bytes hold `block_values` neighbouring values of a row.
struct GgufTypeTraits {
  GgufType type{};
  const char* name = ""; // as ggml writes it: F32, Q4_K ...
  std::int64_t block_values = 1;
  std::int64_t block_bytes = 0;
};

// nullptr if ggml has no such type (or has it no longer).
const GgufTypeTraits* find_gguf_type(std::uint32_t id);
// Throws ModelError for a value that is none of the enumeration's.
const GgufTypeTraits& traits_of(GgufType type);

// A value of the metadata. The variants' indices are the numbers of the types in the file; an array of arrays,
// which llama.cpp does not read either, is refused.
using GgufArray = std::variant<std::vector<std::uint8_t>, std::vector<std::int8_t>, std::vector<std::uint16_t>,
                               std::vector<std::int16_t>, std::vector<std::uint32_t>, std::vector<std::int32_t>,
                               std::vector<float>, std::vector<bool>, std::vector<std::string>, std::monostate,
                               std::vector<std::uint64_t>, std::vector<std::int64_t>, std::vector<double>>;
using GgufValue =
    std::variant<std::uint8_t, std::int8_t, std::uint16_t, std::int16_t, std::uint32_t, std::int32_t, float,
                 bool, std::string, GgufArray, std::uint64_t, std::int64_t, double>;

// In the file's order.
using GgufMetadata = std::vector<std::pair<std::string, GgufValue>>;

struct GgufTensor {
  std::string name;
  std::vector<std::int64_t> dims; // ggml's order: the innermost first, so a weight [out, in] has {in, out}
  GgufType type = GgufType::f32;
  std::uint64_t begin = 0; // bytes from the file's start
  std::uint64_t bytes = 0;

  std::int64_t elements() const;
};

struct GgufHeader {
  std::filesystem::path path;
  std::uint32_t version = 0;
  std::uint32_t alignment = 32; // bytes
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors; // in the file's order

  // nullptr if there is none.
  const GgufValue* find(std::string_view key) const;
  const GgufTensor* find_tensor(std::string_view name) const;

  // nullopt or nullptr if the key is missing. Each throws ModelError, naming file and key, if the value is of
  // another kind: an integer may be of any width (but fit), a number may be an integer too.
  std::optional<std::int64_t> integer(std::string_view key) const;
  std::optional<double> number(std::string_view key) const;
  std::optional<bool> boolean(std::string_view key) const;
  const std::string* text(std::string_view key) const;
  const std::vector<std::string>* texts(std::string_view key) const;
  std::optional<std::vector<std::int64_t>> integers(std::string_view key) const;
  std::optional<std::vector<double>> numbers(std::string_view key) const;
};

// Reads and validates everything before the tensors' bytes, and where those lie: magic, version, counts and
// lengths against what the file holds (before anything is reserved), types, shapes, unique keys and names,
// alignment, ranges inside the file that do not overlap. Throws ModelError naming file and key or tensor;
// IoError if the file can't be read.
GgufHeader read_gguf_header(const std::filesystem::path& path);

// The same of bytes in memory, where `path` is only a name for messages.
GgufHeader parse_gguf_header(std::string_view bytes, const std::filesystem::path& path);

using GgufSink = std::function<void(std::span<const std::byte>)>;

// A tensor to write: `write` hands its bytes, in order and in pieces of any size, to the sink.
struct GgufOutput {
  std::string name;
  std::vector<std::int64_t> dims; // ggml's order
  GgufType type = GgufType::f32;
  std::function<void(const GgufSink&)> write;
};

// The bytes of `dims` values of a type. Throws ModelError, naming `name`, if the rows are no whole blocks.
std::uint64_t gguf_tensor_bytes(const std::string& name, const std::vector<std::int64_t>& dims, GgufType type);

// Writes version 3, little-endian, alignment 32, atomically; asks for one tensor after another, so that only
// one need be in memory. Throws IoError (disk full ...), ModelError (names or keys twice, rows that are no
// whole blocks) and what the tensors throw; then `path` is as it was.
void write_gguf(const std::filesystem::path& path, const GgufMetadata& metadata,
                const std::vector<GgufOutput>& tensors);

} // namespace temper
