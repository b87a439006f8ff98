// Writes GGUF, tensor by tensor.
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <set>
#include <type_traits>

#include <fmt/format.h>

#include "temper/base/error.h"
#include "temper/base/files.h"
#include "temper/io/gguf.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kAlignment = 32;

std::uint64_t padded(std::uint64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

template <typename T>
void append_raw(std::string& out, const T& value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void append(std::string& out, std::string_view text) {
  append_raw(out, std::uint64_t{text.size()});
  out.append(text);
}

template <typename T>
void append_scalar(std::string& out, const T& value) {
  if constexpr (std::is_same_v<T, bool>) {
    out.push_back(value ? '\1' : '\0');
  } else if constexpr (std::is_same_v<T, std::string>) {
    append(out, value);
  } else {
    append_raw(out, value);
  }
}

void append_array(std::string& out, const GgufArray& array, const std::string& key) {
  append_raw(out, static_cast<std::uint32_t>(array.index()));
  std::visit(
      [&](const auto& items) {
        using Items = std::decay_t<decltype(items)>;
        if constexpr (std::is_same_v<Items, std::monostate>) {
          throw ModelError("metadata key " + key + " is an array of nothing");
        } else {
          append_raw(out, std::uint64_t{items.size()});
          for (const typename Items::value_type& item : items) {
            append_scalar(out, item);
          }
        }
      },
      array);
}

std::string header_bytes(const GgufMetadata& metadata, const std::vector<GgufOutput>& tensors) {
  std::string out = "GGUF";
  append_raw(out, std::uint32_t{3});
  append_raw(out, std::uint64_t{tensors.size()});
  append_raw(out, std::uint64_t{metadata.size()});
  for (const auto& [key, value] : metadata) {
    append(out, key);
    append_raw(out, static_cast<std::uint32_t>(value.index()));
    std::visit(
        [&out, &name = key](const auto& v) {
          if constexpr (std::is_same_v<std::decay_t<decltype(v)>, GgufArray>) {
            append_array(out, v, name);
          } else {
            append_scalar(out, v);
          }
        },
        value);
  }
  std::uint64_t offset = 0;
  for (const auto& tensor : tensors) {
    append(out, tensor.name);
    append_raw(out, static_cast<std::uint32_t>(tensor.dims.size()));
    for (const auto dim : tensor.dims) {
      append_raw(out, dim);
    }
    append_raw(out, static_cast<std::uint32_t>(tensor.type));
    append_raw(out, offset);
    offset += padded(gguf_tensor_bytes(tensor.name, tensor.dims, tensor.type));
  }
  out.resize(padded(out.size()));
  return out;
}

class File {
 public:
  // `shown` is the name for messages: the file's own is a temporary one.
  File(const fs::path& path, const fs::path& shown) : shown_(shown), file_(std::fopen(path.c_str(), "wb")) {
    check(file_ != nullptr);
  }
  void write(const void* bytes, std::size_t count) {
    check(std::fwrite(bytes, 1, count, file_.get()) == count);
    written_ += count;
  }
  void pad() {
    const std::string zeros(static_cast<std::size_t>(padded(written_) - written_), '\0');
    write(zeros.data(), zeros.size());
  }
  void close() {
    check(std::fclose(file_.release()) == 0);
  }
  std::uint64_t written() const {
    return written_;
  }

 private:
  struct Closer {
    void operator()(std::FILE* file) const {
      static_cast<void>(std::fclose(file));
    }
  };
  void check(bool good) const {
    if (!good) {
      throw IoError("cannot write " + shown_.string() + ": " + std::strerror(errno));
    }
  }

  const fs::path& shown_;
  std::unique_ptr<std::FILE, Closer> file_;
  std::uint64_t written_ = 0;
};

void check_unique(const GgufMetadata& metadata, const std::vector<GgufOutput>& tensors) {
  std::set<std::string_view> keys;
  for (const auto& [key, value] : metadata) {
    if (!keys.insert(key).second) {
      throw ModelError("metadata key " + key + " is there twice");
    }
  }
  std::set<std::string_view> names;
  for (const auto& tensor : tensors) {
    if (!names.insert(tensor.name).second) {
      throw ModelError("tensor " + tensor.name + " is there twice");
    }
  }
}

} // namespace

std::uint64_t gguf_tensor_bytes(const std::string& name, const std::vector<std::int64_t>& dims, GgufType type) {
  const auto& traits = traits_of(type);
  std::uint64_t elements = 1;
  for (const auto dim : dims) {
    elements *= static_cast<std::uint64_t>(dim);
  }
  if (!dims.empty() && dims.front() % traits.block_values != 0) {
    throw ModelError(
        fmt::format("tensor {} has rows of {} values, no whole blocks of {}", name, dims.front(), traits.name));
  }
  return elements / static_cast<std::uint64_t>(traits.block_values) *
         static_cast<std::uint64_t>(traits.block_bytes);
}

void write_gguf(const fs::path& path, const GgufMetadata& metadata, const std::vector<GgufOutput>& tensors) {
  check_unique(metadata, tensors);
  const auto header = header_bytes(metadata, tensors);
  write_file_atomic(path, [&](const fs::path& temporary) {
    File file(temporary, path);
    file.write(header.data(), header.size());
    for (const auto& tensor : tensors) {
      const auto begin = file.written();
      tensor.write([&](std::span<const std::byte> bytes) { file.write(bytes.data(), bytes.size()); });
      const auto wanted = gguf_tensor_bytes(tensor.name, tensor.dims, tensor.type);
      if (file.written() - begin != wanted) {
        throw ModelError(
            fmt::format("tensor {} gave {} bytes, not {}", tensor.name, file.written() - begin, wanted));
      }
      file.pad();
    }
    file.close();
  });
}

} // namespace temper
