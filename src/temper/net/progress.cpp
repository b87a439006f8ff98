#include "temper/net/progress.h"

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <unistd.h>

#include "temper/base/error.h"
#include "temper/base/log.h"

namespace temper {
namespace {

std::atomic<const std::atomic<int>*> ending_signal{nullptr};

void end_if_asked() {
  const auto* signal = ending_signal.load();
  const int received = signal == nullptr ? 0 : signal->load();
  if (received != 0) {
    throw Error(received == SIGTERM ? ExitCode::terminated : ExitCode::interrupted,
                "interrupted; what was fetched stays: run this again to go on");
  }
}

constexpr double kRedrawEvery = 0.2; // seconds
constexpr double kLineEvery = 15;

bool is_terminal() {
  const char* term = std::getenv("TERM");
  return ::isatty(STDERR_FILENO) != 0 && (term == nullptr || std::string_view(term) != "dumb");
}

std::string format_time(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::lround(seconds));
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

} // namespace

std::string format_bytes(std::int64_t bytes) {
  auto value = static_cast<double>(bytes);
  if (value < 1000) {
    return fmt::format("{} B", bytes);
  }
  for (const char* unit : {"kB", "MB", "GB"}) {
    value /= 1000;
    if (value < 999.5 || std::string_view(unit) == "GB") {
      return fmt::format("{:.{}f} {}", value, value < 9.995 ? 2 : value < 99.95 ? 1 : 0, unit);
    }
  }
  return {};
}

void end_downloads_on(const std::atomic<int>& signal) {
  ending_signal = &signal;
}

DownloadProgress::DownloadProgress(std::string name, std::size_t num_files, std::int64_t num_bytes,
                                   std::int64_t num_here, const Words& words)
    : name_(std::move(name)),
      words_(words),
      total_(num_bytes),
      here_(num_here),
      redraws_(is_terminal() && log::is_shown(log::Level::info)) {
  log::info(fmt::format("{} {}: {} file{}, {}{}", words_.doing, name_, num_files, num_files == 1 ? "" : "s",
                        format_bytes(total_),
                        here_ > 0 ? ", of which " + format_bytes(here_) + " " + words_.before : std::string()));
}

DownloadProgress::~DownloadProgress() {
  erase();
}

void DownloadProgress::add(std::int64_t num_bytes) {
  end_if_asked();
  here_ += num_bytes;
  fetched_ += std::max<std::int64_t>(0, num_bytes);
  const double now = watch_.seconds();
  if (now - last_shown_ < (redraws_ ? kRedrawEvery : kLineEvery)) {
    return;
  }
  last_shown_ = now;
  if (!redraws_) {
    log::info(state());
    return;
  }
  std::fprintf(stderr, "\r\x1b[K%s", state().c_str());
  std::fflush(stderr);
  is_drawn_ = true;
}

std::string DownloadProgress::state() const {
  const double speed = static_cast<double>(fetched_) / std::max(watch_.seconds(), 1e-3);
  const auto left = static_cast<double>(std::max<std::int64_t>(0, total_ - here_));
  return fmt::format("{}: {} of {} ({}%), {}/s, {} left", name_, format_bytes(here_), format_bytes(total_),
                     total_ > 0 ? here_ * 100 / total_ : 100, format_bytes(static_cast<std::int64_t>(speed)),
                     format_time(left / std::max(speed, 1.0)));
}

void DownloadProgress::finish() {
  erase();
  const double seconds = std::max(watch_.seconds(), 1e-3);
  log::info(fmt::format("{} {}: {} in {:.1f} s, {}/s", words_.done, name_, format_bytes(fetched_), seconds,
                        format_bytes(static_cast<std::int64_t>(static_cast<double>(fetched_) / seconds))));
}

void DownloadProgress::erase() {
  if (std::exchange(is_drawn_, false)) {
    std::fputs("\r\x1b[K", stderr);
    std::fflush(stderr);
  }
}

} // namespace temper
