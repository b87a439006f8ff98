#include "temper/base/files.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "temper/base/error.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const std::string& action, const fs::path& path, int error) {
  throw IoError("cannot " + action + " " + path.string() + ": " + std::strerror(error));
}

// A file descriptor closed on scope exit.
class Descriptor {
 public:
  Descriptor(const fs::path& path, int flags, const char* action)
      : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0644)) {
    if (fd_ < 0) {
      fail(action, path, errno);
    }
  }
  ~Descriptor() {
    ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const {
    return fd_;
  }

 private:
  int fd_;
};

std::size_t file_size(const Descriptor& file, const fs::path& path) {
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) {
    fail("read", path, errno);
  }
  if (S_ISDIR(info.st_mode)) {
    fail("read", path, EISDIR);
  }
  return static_cast<std::size_t>(info.st_size);
}

void sync_directory(const fs::path& path) {
  // Some file systems refuse to sync a folder; the rename is atomic all the same.
  const int fd = ::open(path.empty() ? "." : path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0) {
    ::fsync(fd);
    ::close(fd);
  }
}

void write_all(const fs::path& path, std::string_view bytes) {
  const Descriptor file(path, O_WRONLY | O_CREAT | O_TRUNC, "write");
  while (!bytes.empty()) {
    const auto written = ::write(file.get(), bytes.data(), bytes.size());
    if (written < 0 && errno != EINTR) {
      fail("write", path, errno);
    }
    bytes.remove_prefix(written > 0 ? static_cast<std::size_t>(written) : 0);
  }
}

} // namespace

std::string read_file(const fs::path& path) {
  const Descriptor file(path, O_RDONLY, "read");
  std::string bytes(file_size(file, path), '\0');
  std::size_t filled = 0;
  while (filled < bytes.size()) {
    const auto count = ::read(file.get(), bytes.data() + filled, bytes.size() - filled);
    if (count < 0 && errno != EINTR) {
      fail("read", path, errno);
    }
    if (count == 0) {
      break;
    }
    filled += count > 0 ? static_cast<std::size_t>(count) : 0;
  }
  bytes.resize(filled);
  return bytes;
}

void write_file_atomic(const fs::path& path, std::string_view bytes) {
  write_file_atomic(path, [&](const fs::path& temporary) { write_all(temporary, bytes); });
}

void write_file_atomic(const fs::path& path, const std::function<void(const fs::path&)>& write) {
  std::error_code ignored;
  if (fs::exists(path, ignored) &&
      !fs::is_regular_file(path, ignored)) { // a rename would put a file in its place
    throw IoError("cannot write " + path.string() + ": it is no ordinary file; name another");
  }
  // The extension stays last: writers such as MLX's choose the format by it.
  const fs::path temporary =
      path.parent_path() /
      ("." + path.stem().string() + "." + std::to_string(::getpid()) + ".tmp" + path.extension().string());
  try {
    write(temporary);
    {
      const Descriptor file(temporary, O_RDONLY, "write");
      if (::fsync(file.get()) != 0) {
        fail("write", path, errno);
      }
    }
    if (::rename(temporary.c_str(), path.c_str()) != 0) {
      fail("write", path, errno);
    }
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  sync_directory(path.parent_path());
}

void make_directories(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) {
    fail("create folder", path, error.value());
  }
}

MappedFile::MappedFile(const fs::path& path) {
  const Descriptor file(path, O_RDONLY, "read");
  size_ = file_size(file, path);
  if (size_ == 0) {
    return;
  }
  void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (address == MAP_FAILED) {
    fail("map", path, errno);
  }
  data_ = static_cast<const std::byte*>(address);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) {
    ::munmap(const_cast<std::byte*>(data_), size_);
  }
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {
}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

Fingerprint& Fingerprint::add(std::string_view bytes) {
  for (const char byte : bytes) {
    state_ = (state_ ^ static_cast<unsigned char>(byte)) * 0x100000001b3ULL;
  }
  return *this;
}

std::string Fingerprint::hex() const {
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(state_));
  return digits;
}

} // namespace temper
