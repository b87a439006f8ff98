// Bytes and speed of a download, for people: a line redrawn in place on a terminal, elsewhere a plain line now
// and then. Silent where log's level hides information.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "temper/base/clock.h"

namespace temper {

// From now on downloads end when `signal` is not 0, by an Error of a signal's exit code. It must stay alive.
void end_downloads_on(const std::atomic<int>& signal);

class DownloadProgress {
 public:
  // What it is called in messages.
  struct Words {
    const char* doing;
    const char* done;
    const char* before;
  };
  static constexpr Words kFetching{"Fetching", "Fetched", "came before"};
  static constexpr Words kSending{"Sending", "Sent", "are there"};

  // `num_bytes` in all, of which `num_here` came earlier.
  DownloadProgress(std::string name, std::size_t num_files, std::int64_t num_bytes, std::int64_t num_here,
                   const Words& words = kFetching);
  // Clears the redrawn line.
  ~DownloadProgress();
  DownloadProgress(const DownloadProgress&) = delete;
  DownloadProgress& operator=(const DownloadProgress&) = delete;

  // `num_bytes` more are here; negative: some were worthless. Throws Error if a signal came.
  void add(std::int64_t num_bytes);
  // Says how much came and how fast.
  void finish();

 private:
  std::string state() const;
  void erase();

  std::string name_;
  Words words_;
  std::int64_t total_;
  std::int64_t here_;
  std::int64_t fetched_ = 0;
  Stopwatch watch_;
  double last_shown_ = 0;
  bool redraws_;
  bool is_drawn_ = false;
};

// "950 B", "12.3 MB", "4.05 GB".
std::string format_bytes(std::int64_t bytes);

} // namespace temper
