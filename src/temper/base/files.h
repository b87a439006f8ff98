// Whole-file reads, memory maps, and writes that are complete or absent.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>

namespace temper {

// The file's bytes. Throws IoError naming the path and the system's reason.
std::string read_file(const std::filesystem::path& path);

// Writes to a temporary name beside `path`, syncs, renames over `path`, syncs the folder.
// Throws IoError (disk full, no permission ...) and then leaves `path` as it was, no temporary behind.
void write_file_atomic(const std::filesystem::path& path, std::string_view bytes);

// The same for content produced by `write`, which is given the temporary path to fill.
void write_file_atomic(const std::filesystem::path& path,
                       const std::function<void(const std::filesystem::path&)>& write);

// Creates `path` and its parents. Throws IoError naming the first part that could not be made.
void make_directories(const std::filesystem::path& path);

// A read-only map of a whole file; an empty file gives an empty span.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const std::byte> bytes() const noexcept {
    return {data_, size_};
  }
  std::string_view text() const noexcept {
    return {reinterpret_cast<const char*>(data_), size_};
  }

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

// 64-bit FNV-1a, as 16 hexadecimal digits: fingerprints of files, never security.
// Source: Fowler, Noll, Vo; RFC 9923.
class Fingerprint {
 public:
  Fingerprint& add(std::string_view bytes);
  std::string hex() const;

 private:
  std::uint64_t state_ = 0xcbf29ce484222325ULL;
};

} // namespace temper
