// A run's progress for people, made from its events (docs/formats/events.md): on a terminal two lines
// redrawn in place above which evaluations, checkpoints and warnings scroll by; elsewhere one plain line a
// report. While it redraws, log lines (base/log.h) appear through it.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <mutex>
#include <string>

#include "temper/base/event.h"

namespace temper::cli {

struct TerminalOptions {
  bool interactive = false; // redraw in place
  bool color = false;
  bool quiet = false;   // only the result
  bool verbose = false; // every report as a line, on a terminal too
  int width = 80;       // columns
};

// What `stream` allows: interactive and in colour on a terminal, unless TERM is dumb or NO_COLOR is set.
TerminalOptions detect_terminal(std::FILE* stream);

// "0:07", "12:34", "1:02:03".
std::string format_duration(double seconds);
// Three significant digits and a suffix: 950, 12.3k, 1.05M.
std::string format_count(double count);

class TerminalView : public EventSink {
 public:
  // `clock` gives seconds, never running backwards; null: the machine's. `stream` must outlive the view.
  TerminalView(std::FILE* stream, TerminalOptions options, std::function<double()> clock = nullptr);
  // Leaves the cursor on a line of its own.
  ~TerminalView() override;
  TerminalView(const TerminalView&) = delete;
  TerminalView& operator=(const TerminalView&) = delete;

  void on_event(const Event& event) override;
  void on_progress(std::int64_t step) override;

 private:
  void run_started(const Json& data);
  void step(const Event& event);
  void eval(const Event& event);
  void sample(const Json& data);
  void finished(const Event& event);

  std::string bar_line() const;
  std::string status_line() const;
  std::string report_line(const Event& event) const;
  std::string remaining() const;
  void print(const std::string& line); // above the bar
  void draw(bool now);
  void erase();
  std::string paint(const char* code, const std::string& text) const;

  std::mutex mutex_; // loaders log from threads of their own
  std::FILE* stream_;
  TerminalOptions options_;
  std::function<double()> clock_;
  bool takes_log_ = false;
  std::int64_t iters_ = 0;
  std::int64_t step_ = 0;
  std::int64_t first_step_ = -1; // where this process began, resumed or not
  double first_time_ = 0;
  double batches_per_epoch_ = 0;
  double epoch_ = 0;
  Json last_ = Json::object(); // the latest step event's data
  double val_loss_ = -1;
  double last_draw_ = -1;
  bool is_drawn_ = false;
  bool is_over_ = false;
};

} // namespace temper::cli
