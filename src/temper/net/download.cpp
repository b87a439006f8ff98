#include "temper/net/download.h"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <unistd.h>

#include "temper/base/sha256.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

// The bytes that are here, with their running sum.
class PartFile {
 public:
  explicit PartFile(const Download& download)
      : name_(download.name), cache_variable_(download.cache_variable), path_(incomplete_path(download.path)) {
    fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd_ < 0) {
      fail(errno);
    }
    try {
      read_what_is_here(download.size);
    } catch (...) {
      ::close(fd_);
      throw;
    }
  }
  ~PartFile() {
    ::close(fd_);
  }
  PartFile(const PartFile&) = delete;
  PartFile& operator=(const PartFile&) = delete;

  std::int64_t size() const {
    return size_;
  }
  std::string sha256() const {
    return sum_.hex();
  }

  void append(std::string_view bytes) {
    while (!bytes.empty()) {
      const auto written = ::write(fd_, bytes.data(), bytes.size());
      if (written < 0 && errno != EINTR) {
        fail(errno);
      }
      const auto count = written > 0 ? static_cast<std::size_t>(written) : 0;
      sum_.add(bytes.substr(0, count));
      size_ += static_cast<std::int64_t>(count);
      bytes.remove_prefix(count);
    }
  }

  void clear() {
    if (::ftruncate(fd_, 0) != 0 || ::lseek(fd_, 0, SEEK_SET) < 0) {
      fail(errno);
    }
    sum_ = Sha256();
    size_ = 0;
  }

  void finish(const fs::path& path) {
    if (::fsync(fd_) != 0 || ::rename(path_.c_str(), path.c_str()) != 0) {
      fail(errno);
    }
  }

  void remove() {
    ::unlink(path_.c_str());
  }

 private:
  void read_what_is_here(std::int64_t expected) {
    std::string buffer(std::size_t{1} << 20, '\0');
    while (true) {
      const auto count = ::read(fd_, buffer.data(), buffer.size());
      if (count < 0 && errno == EINTR) {
        continue;
      }
      if (count < 0) {
        fail(errno);
      }
      if (count == 0) {
        break;
      }
      sum_.add(std::string_view(buffer).substr(0, static_cast<std::size_t>(count)));
      size_ += count;
    }
    if (expected >= 0 && size_ > expected) {
      clear();
    }
  }

  [[noreturn]] void fail(int error) const {
    const bool is_full = error == ENOSPC || error == EDQUOT || error == EFBIG;
    throw IoError(name_ + ": cannot write " + path_.string() + ": " + std::strerror(error) +
                  (is_full ? "; make room or set " + cache_variable_ +
                                 " to a larger disk, then run this again: it goes on from here"
                           : ""));
  }

  std::string name_;
  std::string cache_variable_;
  fs::path path_;
  int fd_ = -1;
  std::int64_t size_ = 0;
  Sha256 sum_;
};

// Where a 206 begins; -1 if it does not say.
std::int64_t range_start(const HttpResponse& response) {
  const auto range = response.header("content-range"); // "bytes 100-199/200"
  return range.starts_with("bytes ") ? std::strtoll(range.c_str() + 6, nullptr, 10) : -1;
}

// One answer's worth. Whether the file is whole, as far as the server said.
HttpResponse fetch_rest(HttpClient& client, const Download& download, PartFile& part,
                        const std::function<void(std::int64_t)>& on_bytes) {
  const auto restart = [&] {
    on_bytes(-part.size());
    part.clear();
  };
  bool is_first = true;
  HttpRequest request;
  request.url = download.url;
  request.token = download.token;
  request.offset = part.size();
  if (download.headers) {
    request.headers = download.headers();
  }
  auto response = client.try_once(request, [&](const HttpResponse& head, std::string_view piece) {
    if (is_first && part.size() > 0 && (head.status != 206 || range_start(head) != part.size())) {
      if (head.status == 206) {
        throw IoError(download.name + ": the server sent another part of the file than asked for");
      }
      restart();
    }
    is_first = false;
    part.append(piece);
    on_bytes(static_cast<std::int64_t>(piece.size()));
  });
  if (response.status == 416 && part.size() > 0) { // there is no such part: what is here is of no use
    restart();
  }
  return response;
}

void check(const Download& download, PartFile& part) {
  if (download.size >= 0 && part.size() != download.size) {
    part.remove();
    throw IoError(download.name + ": " + std::to_string(part.size()) + " bytes came where " + download.source +
                  " announces " + std::to_string(download.size) + "; they were deleted: run this again");
  }
  if (!download.sha256.empty() && part.sha256() != download.sha256) {
    part.remove();
    throw IoError(download.name + ": wrong checksum (sha256 " + part.sha256() + ", " + download.source +
                  " announces " + download.sha256 + "); the file was deleted: run this again");
  }
}

} // namespace

fs::path incomplete_path(const fs::path& path) {
  auto incomplete = path;
  incomplete += ".incomplete";
  return incomplete;
}

void download_file(HttpClient& client, const Download& download,
                   const std::function<void(std::int64_t)>& on_bytes) {
  PartFile part(download);
  Backoff backoff(client.options());
  bool has_come = download.size >= 0 && part.size() == download.size && part.size() > 0;
  while (!has_come) {
    const auto before = part.size();
    try {
      const auto response = fetch_rest(client, download, part, on_bytes);
      has_come = response.status / 100 == 2;
      if (!has_come && response.status != 416 && !is_busy_status(response.status)) {
        if (download.refuse) {
          download.refuse(response);
        }
        throw IoError(download.name + ": " + origin_of(response.url) + " answered " +
                      std::to_string(response.status) + "; run this again, it goes on where it ended");
      }
      const auto wait = std::strtod(response.header("retry-after").c_str(), nullptr);
      if (!has_come && !backoff.wait(wait)) {
        throw NetworkError(NetworkError::Kind::busy,
                           origin_of(response.url) + ": answered " + std::to_string(response.status));
      }
    } catch (const NetworkError& error) {
      if (part.size() > before) {
        backoff.reset();
      }
      const bool may_recover = error.kind() == NetworkError::Kind::dropped || part.size() > 0;
      if (error.kind() == NetworkError::Kind::busy || !may_recover || !backoff.wait()) {
        throw;
      }
    }
  }
  check(download, part);
  part.finish(download.path);
}

} // namespace temper
