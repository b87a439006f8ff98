#include "temper/io/safetensors.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "temper/base/error.h"
#include "temper/base/files.h"
#include "temper/base/json.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000; // the reference implementation's limit

// Those that MLX reads.
const std::map<std::string, std::uint64_t> kDtypeBits = {
    {"BOOL", 8}, {"U8", 8},   {"I8", 8},   {"U16", 16}, {"I16", 16}, {"F16", 16}, {"BF16", 16},
    {"U32", 32}, {"I32", 32}, {"F32", 32}, {"U64", 64}, {"I64", 64}, {"C64", 64},
};

[[noreturn]] void fail(const fs::path& path, const std::string& what) {
  throw ModelError(path.string() + ": " + what +
                   "; the file is damaged or not safetensors: replace it with a whole copy");
}

// Elements of `shape`, failing on negative or overflowing counts.
std::uint64_t count_elements(const fs::path& path, const std::string& name, const TensorInfo& info) {
  std::uint64_t elements = 1;
  for (const auto dim : info.shape) {
    if (dim < 0 || (dim > 0 && elements > (std::uint64_t{1} << 48) / static_cast<std::uint64_t>(dim))) {
      fail(path, "tensor " + name + " has an impossible shape");
    }
    elements *= static_cast<std::uint64_t>(dim);
  }
  return elements;
}

TensorInfo read_info(const fs::path& path, const std::string& name, const Json& entry,
                     std::uint64_t data_bytes) {
  TensorInfo info;
  try {
    info.dtype = entry.at("dtype").get<std::string>();
    info.shape = entry.at("shape").get<std::vector<std::int64_t>>();
    const auto offsets = entry.at("data_offsets").get<std::vector<std::uint64_t>>();
    info.begin = offsets.at(0);
    info.end = offsets.at(1);
  } catch (const std::exception&) {
    fail(path, "tensor " + name + " lacks a readable dtype, shape or data_offsets");
  }
  const auto bits = kDtypeBits.find(info.dtype);
  if (bits == kDtypeBits.end()) {
    throw ModelError(path.string() + ": tensor " + name + " has dtype " + info.dtype +
                     ", which is not supported");
  }
  if (info.begin > info.end || info.end > data_bytes) {
    fail(path,
         "tensor " + name + " ends at byte " + std::to_string(info.end) + " of " + std::to_string(data_bytes));
  }
  if (count_elements(path, name, info) * (bits->second / 8) != info.end - info.begin) {
    fail(path, "tensor " + name + " has a shape that does not match its " +
                   std::to_string(info.end - info.begin) + " bytes");
  }
  return info;
}

void check_layout(const fs::path& path, const SafetensorsHeader& header, std::uint64_t data_bytes) {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;
  ranges.reserve(header.tensors.size());
  for (const auto& [name, info] : header.tensors) {
    ranges.emplace_back(info.begin, info.end);
  }
  std::sort(ranges.begin(), ranges.end());
  std::uint64_t expected = 0;
  for (const auto& [begin, end] : ranges) {
    if (begin != expected) {
      fail(path, "tensors overlap or leave a gap at byte " + std::to_string(begin));
    }
    expected = end;
  }
  if (expected != data_bytes) {
    fail(path, "the tensors take " + std::to_string(expected) + " bytes, the file holds " +
                   std::to_string(data_bytes));
  }
}

} // namespace

SafetensorsHeader read_safetensors_header(const fs::path& path) {
  const MappedFile file(path);
  const auto bytes = file.text();
  std::uint64_t length = 0;
  if (bytes.size() < sizeof length) {
    fail(path, "only " + std::to_string(bytes.size()) + " bytes long");
  }
  std::memcpy(&length, bytes.data(), sizeof length);
  if (length > kMaxHeaderBytes || length > bytes.size() - sizeof length) {
    fail(path, "the header claims " + std::to_string(length) + " bytes");
  }
  Json json;
  try {
    json = Json::parse(bytes.substr(sizeof length, length));
  } catch (const Json::exception&) {
    fail(path, "the header is not JSON");
  }
  if (!json.is_object()) {
    fail(path, "the header is not a JSON object");
  }
  const std::uint64_t data_bytes = bytes.size() - sizeof length - length;
  SafetensorsHeader header;
  for (const auto& [name, entry] : json.items()) {
    if (name == "__metadata__") {
      for (const auto& [key, value] : entry.items()) {
        header.metadata[key] = value.is_string() ? value.get<std::string>() : dump(value);
      }
    } else {
      header.tensors[name] = read_info(path, name, entry, data_bytes);
    }
  }
  check_layout(path, header, data_bytes);
  return header;
}

Params load_safetensors(const fs::path& path) {
  read_safetensors_header(path);
  Params params;
  for (auto& [name, array] : mx::load_safetensors(path.string()).first) {
    params.emplace(name, array);
  }
  return params;
}

void save_safetensors(const fs::path& path, const Params& params,
                      const std::map<std::string, std::string>& metadata) {
  std::unordered_map<std::string, mx::array> arrays;
  for (const auto& [name, array] : params) {
    arrays.emplace(name, mx::contiguous(array));
  }
  const std::unordered_map<std::string, std::string> notes(metadata.begin(), metadata.end());
  write_file_atomic(path, [&](const fs::path& temporary) {
    try {
      mx::save_safetensors(temporary.string(), arrays, notes);
    } catch (const std::exception& error) {
      throw IoError("cannot write " + path.string() + ": the disk may be full (" + error.what() + ")");
    }
    // MLX does not look whether its writes succeeded: a full disk shows as a short file.
    try {
      read_safetensors_header(temporary);
    } catch (const ModelError&) {
      throw IoError("cannot write " + path.string() + ": the disk is full or the write was cut short");
    }
  });
}

} // namespace temper
