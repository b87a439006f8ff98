#include "temper/io/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <set>
#include <type_traits>

#include <fmt/format.h>

#include "temper/base/error.h"
#include "temper/base/files.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "GGUF is read as it lies in memory");

constexpr std::uint32_t kMaxDims = 4;         // ggml's
constexpr std::size_t kMaxTensorName = 63;    // ggml's: 64 with the terminator
constexpr std::size_t kLeastKeyBytes = 13;    // an empty key, its type and a byte
constexpr std::size_t kLeastTensorBytes = 24; // an empty name, no dims, type and offset
constexpr std::uint32_t kArrayId = 9;
constexpr std::uint64_t kMaxElements = std::uint64_t{1} << 48;

// Names and keys come out of damaged files: shown short and without control characters.
std::string shown(std::string_view name) {
  std::string out;
  for (const char c : name.substr(0, 80)) {
    out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  }
  return out.empty() ? "\"\"" : out;
}

// Reads a file's bytes in order; whatever goes wrong is said of what `where_` names.
class Cursor {
 public:
  Cursor(std::string_view bytes, const fs::path& path) : bytes_(bytes), path_(path) {
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw ModelError(path_.string() + ": " + what +
                     "; the file is damaged or not GGUF: replace it with a whole copy");
  }
  void enter(std::string where) {
    where_ = std::move(where);
  }
  const std::string& where() const {
    return where_;
  }
  std::size_t position() const {
    return position_;
  }
  std::size_t remaining() const {
    return bytes_.size() - position_;
  }

  std::string_view take(std::uint64_t count) {
    if (count > remaining()) {
      fail(fmt::format("{} runs past the end: {} bytes claimed, {} left", where_, count, remaining()));
    }
    const auto part = bytes_.substr(position_, static_cast<std::size_t>(count));
    position_ += part.size();
    return part;
  }
  template <typename T>
  T scalar() {
    T value{};
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::string text() {
    return std::string(take(scalar<std::uint64_t>()));
  }
  bool boolean() {
    const auto value = scalar<std::uint8_t>();
    if (value > 1) {
      fail(fmt::format("{} is a boolean of value {}", where_, value));
    }
    return value == 1;
  }
  // A count of things of at least `least` bytes each, which must fit into what is left.
  std::uint64_t count(std::size_t least) {
    const auto value = scalar<std::uint64_t>();
    if (value > remaining() / least) {
      fail(fmt::format("{} claims {} entries, more than the {} bytes left hold", where_, value, remaining()));
    }
    return value;
  }

 private:
  std::string_view bytes_;
  const fs::path& path_;
  std::size_t position_ = 0;
  std::string where_ = "the header";
};

template <typename T>
T read_scalar(Cursor& in) {
  if constexpr (std::is_same_v<T, bool>) {
    return in.boolean();
  } else if constexpr (std::is_same_v<T, std::string>) {
    return in.text();
  } else {
    return in.scalar<T>();
  }
}

template <typename Vector>
Vector read_items(Cursor& in) {
  using T = typename Vector::value_type;
  constexpr std::size_t least = std::is_same_v<T, std::string> ? sizeof(std::uint64_t) : sizeof(T);
  const auto count = static_cast<std::size_t>(in.count(least));
  Vector items;
  if constexpr (std::is_arithmetic_v<T> && !std::is_same_v<T, bool>) {
    items.resize(count);
    const auto bytes = in.take(count * sizeof(T));
    std::copy(bytes.begin(), bytes.end(), reinterpret_cast<char*>(items.data()));
  } else {
    for (std::size_t i = 0; i < count; ++i) {
      items.push_back(read_scalar<T>(in));
    }
  }
  return items;
}

template <std::size_t kIndex = 0>
GgufArray read_array(Cursor& in, std::uint32_t id) {
  if constexpr (kIndex < std::variant_size_v<GgufArray>) {
    if (id == kIndex) {
      using Vector = std::variant_alternative_t<kIndex, GgufArray>;
      if constexpr (std::is_same_v<Vector, std::monostate>) {
        in.fail(in.where() + " is an array of arrays, which is not supported");
      } else {
        return read_items<Vector>(in);
      }
    }
    return read_array<kIndex + 1>(in, id);
  } else {
    in.fail(fmt::format("{} is an array of the unknown type {}", in.where(), id));
  }
}

template <std::size_t kIndex = 0>
GgufValue read_value(Cursor& in, std::uint32_t id) {
  if constexpr (kIndex < std::variant_size_v<GgufValue>) {
    if (id == kIndex) {
      if constexpr (kIndex == kArrayId) {
        return read_array(in, in.scalar<std::uint32_t>());
      } else {
        return GgufValue(std::in_place_index<kIndex>,
                         read_scalar<std::variant_alternative_t<kIndex, GgufValue>>(in));
      }
    }
    return read_value<kIndex + 1>(in, id);
  } else {
    in.fail(fmt::format("{} has the unknown type {}", in.where(), id));
  }
}

void check_magic(Cursor& in, const fs::path& path, GgufHeader& header) {
  in.enter("the header");
  if (in.remaining() < 4 || in.take(4) != "GGUF") {
    in.fail("does not begin with GGUF");
  }
  header.version = in.scalar<std::uint32_t>();
  if (header.version != 0 && (header.version & 0xffff) == 0) {
    throw ModelError(path.string() + ": a big-endian GGUF, which is not supported: convert it anew");
  }
  if (header.version != 2 && header.version != 3) {
    throw ModelError(fmt::format("{}: GGUF version {} is not supported, 2 and 3 are: convert the model anew",
                                 path.string(), header.version));
  }
}

GgufMetadata read_metadata(Cursor& in, std::uint64_t count) {
  GgufMetadata metadata;
  std::set<std::string> seen;
  for (std::uint64_t i = 0; i < count; ++i) {
    in.enter(fmt::format("metadata key {} of {}", i + 1, count));
    auto key = in.text();
    in.enter("metadata key " + shown(key));
    if (!seen.insert(key).second) {
      in.fail(in.where() + " is there twice");
    }
    const auto id = in.scalar<std::uint32_t>();
    auto value = read_value(in, id);
    metadata.emplace_back(std::move(key), std::move(value));
  }
  return metadata;
}

// Elements of a shape, 0 if there are impossibly many.
std::uint64_t count_elements(const std::vector<std::int64_t>& dims) {
  std::uint64_t elements = 1;
  for (const auto dim : dims) {
    if (dim <= 0 || elements > kMaxElements / static_cast<std::uint64_t>(dim)) {
      return 0;
    }
    elements *= static_cast<std::uint64_t>(dim);
  }
  return elements;
}

GgufTensor read_tensor(Cursor& in, std::uint64_t index, std::uint64_t count) {
  in.enter(fmt::format("tensor {} of {}", index + 1, count));
  GgufTensor tensor;
  tensor.name = in.text();
  in.enter("tensor " + shown(tensor.name));
  if (tensor.name.size() > kMaxTensorName) {
    in.fail(fmt::format("{} has a name of {} bytes", in.where(), tensor.name.size()));
  }
  const auto num_dims = in.scalar<std::uint32_t>();
  if (num_dims > kMaxDims) {
    in.fail(fmt::format("{} has {} dimensions", in.where(), num_dims));
  }
  for (std::uint32_t i = 0; i < num_dims; ++i) {
    tensor.dims.push_back(in.scalar<std::int64_t>());
  }
  const auto elements = count_elements(tensor.dims);
  if (elements == 0) {
    in.fail(in.where() + " has an impossible shape");
  }
  const auto id = in.scalar<std::uint32_t>();
  const auto* traits = find_gguf_type(id);
  if (traits == nullptr) {
    in.fail(fmt::format("{} has the unknown type {}", in.where(), id));
  }
  tensor.type = traits->type;
  const auto row = tensor.dims.empty() ? 1 : tensor.dims.front();
  if (row % traits->block_values != 0) {
    in.fail(fmt::format("{} has rows of {} values, no whole blocks of {}", in.where(), row, traits->name));
  }
  tensor.begin = in.scalar<std::uint64_t>();
  tensor.bytes = elements / static_cast<std::uint64_t>(traits->block_values) *
                 static_cast<std::uint64_t>(traits->block_bytes);
  return tensor;
}

std::vector<GgufTensor> read_tensors(Cursor& in, std::uint64_t count) {
  std::vector<GgufTensor> tensors;
  std::set<std::string> seen;
  for (std::uint64_t i = 0; i < count; ++i) {
    tensors.push_back(read_tensor(in, i, count));
    if (!seen.insert(tensors.back().name).second) {
      in.fail(in.where() + " is there twice");
    }
  }
  return tensors;
}

std::uint32_t read_alignment(const Cursor& in, const GgufHeader& header) {
  const auto* value = header.find("general.alignment");
  if (value == nullptr) {
    return 32;
  }
  const auto* alignment = std::get_if<std::uint32_t>(value);
  if (alignment == nullptr || !std::has_single_bit(*alignment) || *alignment > (1U << 20)) {
    in.fail("metadata key general.alignment is no power of two of type u32");
  }
  return *alignment;
}

// Turns offsets in the data into offsets in the file.
void place_tensors(const Cursor& in, std::size_t file_bytes, GgufHeader& header) {
  const std::uint64_t alignment = header.alignment;
  const auto data_begin = (in.position() + alignment - 1) / alignment * alignment;
  const auto data_bytes = data_begin > file_bytes ? 0 : file_bytes - data_begin;
  std::vector<const GgufTensor*> order;
  for (auto& tensor : header.tensors) {
    const auto offset = tensor.begin;
    if (offset % alignment != 0) {
      in.fail(fmt::format("tensor {} begins at byte {}, not a multiple of {}", shown(tensor.name), offset,
                          alignment));
    }
    if (offset > data_bytes || tensor.bytes > data_bytes - offset) {
      in.fail(fmt::format("tensor {} takes {} bytes from byte {} of {}", shown(tensor.name), tensor.bytes,
                          offset, data_bytes));
    }
    tensor.begin = data_begin + offset;
    order.push_back(&tensor);
  }
  std::sort(order.begin(), order.end(),
            [](const GgufTensor* a, const GgufTensor* b) { return a->begin < b->begin; });
  for (std::size_t i = 1; i < order.size(); ++i) {
    if (order[i]->begin - order[i - 1]->begin < order[i - 1]->bytes) {
      in.fail("tensors " + shown(order[i - 1]->name) + " and " + shown(order[i]->name) + " overlap");
    }
  }
}

} // namespace

GgufHeader parse_gguf_header(std::string_view bytes, const fs::path& path) {
  Cursor in(bytes, path);
  GgufHeader header;
  header.path = path;
  check_magic(in, path, header);
  in.enter("the count of tensors");
  const auto num_tensors = in.count(kLeastTensorBytes);
  in.enter("the count of metadata keys");
  const auto num_keys = in.count(kLeastKeyBytes);
  header.metadata = read_metadata(in, num_keys);
  header.alignment = read_alignment(in, header);
  header.tensors = read_tensors(in, num_tensors);
  place_tensors(in, bytes.size(), header);
  return header;
}

GgufHeader read_gguf_header(const fs::path& path) {
  const MappedFile file(path);
  return parse_gguf_header(file.text(), path);
}

} // namespace temper
