#include "cli/terminal_view.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "temper/base/clock.h"
#include "temper/base/json_text.h"
#include "temper/base/log.h"

namespace temper::cli {
namespace {

constexpr double kRedrawSeconds = 0.1;
constexpr const char* kBold = "1";
constexpr const char* kDim = "2";
constexpr const char* kGreen = "32";
constexpr const char* kYellow = "33";
constexpr const char* kCyan = "36";

double number(const Json& data, const char* key, double otherwise = NAN) {
  const auto found = data.find(key);
  return found != data.end() && found->is_number() ? found->get<double>() : otherwise;
}

std::string format_rate(double rate) {
  return rate < 10 ? fmt::format("{:.2f}", rate) : fmt::format("{:.1f}", rate);
}

std::string format_loss(double loss) {
  return fmt::format("{:.4f}", loss);
}

// Loss, rates, memory of a step event: each part stands alone, so that a narrow terminal drops the last ones.
std::vector<std::string> step_parts(const Json& data, double val_loss) {
  std::vector<std::string> parts;
  const auto add = [&](const char* key, const auto& format) {
    const double value = number(data, key);
    if (!std::isnan(value)) {
      parts.push_back(format(value));
    }
  };
  add("loss", [](double v) { return "loss " + format_loss(v); });
  if (val_loss >= 0) {
    parts.push_back("val " + format_loss(val_loss));
  }
  add("learning_rate", [](double v) { return fmt::format("lr {:.2e}", v); });
  add("grad_norm", [](double v) { return fmt::format("grad {:.3g}", v); });
  add("iterations_per_second", [](double v) { return format_rate(v) + " it/s"; });
  add("tokens_per_second", [&](double v) {
    const double padded = number(data, "padded_tokens_per_second");
    return format_count(v) + " tok/s" +
           (std::isnan(padded) ? "" : fmt::format(" ({} padded)", format_count(padded)));
  });
  add("memory_gb", [&](double v) {
    const double peak = number(data, "peak_memory_gb");
    return fmt::format("mem {:.2f} GB", v) + (std::isnan(peak) ? "" : fmt::format(" (peak {:.2f})", peak));
  });
  if (const double skipped = number(data, "skipped", 0); skipped > 0) {
    parts.push_back(fmt::format("skipped {:.0f}", skipped));
  }
  return parts;
}

std::string join_within(const std::vector<std::string>& parts, std::size_t width) {
  std::string line;
  for (const std::string& part : parts) {
    if (line.size() + 2 + part.size() > width) {
      break;
    }
    line += (line.empty() ? "" : "  ") + part;
  }
  return line;
}

// The terminal's present width; `otherwise` if the stream is none.
int columns(std::FILE* stream, int otherwise) {
  struct winsize size {};
  const bool is_known = ::ioctl(::fileno(stream), TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return is_known ? size.ws_col : otherwise;
}

} // namespace

TerminalOptions detect_terminal(std::FILE* stream) {
  TerminalOptions options;
  const int fd = ::fileno(stream);
  const char* term = std::getenv("TERM");
  const char* no_color = std::getenv("NO_COLOR");
  const bool is_plain = term == nullptr || std::strcmp(term, "dumb") == 0;
  const bool wants_plain = no_color != nullptr && *no_color != '\0';
  options.interactive = ::isatty(fd) == 1 && !is_plain && !wants_plain;
  options.color = options.interactive;
  options.width = columns(stream, options.width);
  return options;
}

std::string format_duration(double seconds) {
  const auto total = static_cast<std::int64_t>(std::llround(std::max(0.0, seconds)));
  const std::int64_t hours = total / 3600, minutes = total / 60 % 60, rest = total % 60;
  return hours > 0 ? fmt::format("{}:{:02}:{:02}", hours, minutes, rest)
                   : fmt::format("{}:{:02}", minutes, rest);
}

std::string format_count(double count) {
  const char* suffix = "";
  for (const char* next : {"k", "M", "G"}) {
    if (count < 999.5) {
      break;
    }
    count /= 1000;
    suffix = next;
  }
  const int decimals = *suffix == '\0' || count >= 99.95 ? 0 : count >= 9.995 ? 1 : 2;
  return fmt::format("{:.{}f}{}", count, decimals, suffix);
}

TerminalView::TerminalView(std::FILE* stream, TerminalOptions options, std::function<double()> clock)
    : stream_(stream), options_(options), clock_(std::move(clock)) {
  if (!clock_) {
    clock_ = [watch = Stopwatch()] { return watch.seconds(); };
  }
  takes_log_ = options_.interactive && !options_.quiet;
  if (takes_log_) {
    log::set_writer([this](std::string_view line) {
      const std::lock_guard lock(mutex_);
      print(std::string(line));
    });
  }
}

TerminalView::~TerminalView() {
  if (takes_log_) {
    log::set_writer(nullptr);
  }
  if (is_drawn_) {
    std::fputs("\n", stream_);
  }
}

void TerminalView::on_event(const Event& event) {
  const std::lock_guard lock(mutex_);
  step_ = std::max(step_, event.step);
  if (event.type == "run_started") {
    run_started(event.data);
  } else if (event.type == "step") {
    step(event);
  } else if (event.type == "eval") {
    eval(event);
  } else if (event.type == "checkpoint") {
    const std::string kind = text_at(event.data, "kind");
    print(paint(kDim, fmt::format("step {}: saved {}{}", event.step, kind.empty() ? "" : kind + " ",
                                  text_at(event.data, "path"))));
  } else if (event.type == "sample") {
    sample(event.data);
  } else if (event.type == "warning") {
    print(paint(kYellow, "warning: ") + text_at(event.data, "message"));
  } else if (event.type == "failed") {
    erase(); // main prints the error itself
    is_over_ = true;
  } else if (event.type == "finished") {
    finished(event);
  }
}

void TerminalView::on_progress(std::int64_t step) {
  const std::lock_guard lock(mutex_);
  step_ = std::max(step_, step);
  if (first_step_ < 0) {
    first_step_ = step;
    first_time_ = clock_();
  }
  draw(false);
}

void TerminalView::run_started(const Json& data) {
  iters_ = static_cast<std::int64_t>(number(data, "iters", 0));
  batches_per_epoch_ = number(data, "batches_per_epoch", 0);
  const double trainable = number(data, "trainable_parameters", 0);
  const double total = number(data, "total_parameters", 0);
  std::string model = text_at(data, "model");
  if (model.empty() && data.contains("config")) {
    model = text_at(data["config"], "model");
  }
  std::vector<std::string> on;
  for (const char* key : {"device", "dtype"}) {
    if (const std::string part = text_at(data, key); !part.empty()) {
      on.push_back(part);
    }
  }
  print(fmt::format("{} {}: {} of {} parameters train ({:.3g}%){}{}", paint(kBold, "model"), model,
                    format_count(trainable), format_count(total), total > 0 ? 100 * trainable / total : 0.0,
                    on.empty() ? "" : ", ", fmt::join(on, ", ")));
  print(fmt::format("{} {} training, {} validation, {} test examples; {} steps", paint(kBold, "data"),
                    number(data, "train_examples", 0), number(data, "valid_examples", 0),
                    number(data, "test_examples", 0), iters_));
  print(fmt::format("{} {}", paint(kBold, "run"), text_at(data, "run_dir")));
  draw(true);
}

void TerminalView::step(const Event& event) {
  last_ = event.data;
  epoch_ = number(event.data, "epoch", epoch_);
  if (first_step_ < 0) {
    first_step_ = event.step;
    first_time_ = clock_();
  }
  if (!options_.interactive || options_.verbose) {
    print(report_line(event));
  }
  draw(true);
}

void TerminalView::eval(const Event& event) {
  const std::string split = text_at(event.data, "split");
  const double loss = number(event.data, "loss");
  if (split != "test") {
    val_loss_ = loss;
  }
  const auto best = event.data.find("best");
  const bool is_best = best != event.data.end() && best->is_boolean() && best->get<bool>();
  const double seconds = number(event.data, "seconds");
  print(fmt::format("step {}: {} loss {}, perplexity {:.4g}, {} tokens{}{}", event.step, paint(kCyan, split),
                    format_loss(loss), number(event.data, "perplexity"),
                    format_count(number(event.data, "tokens", 0)),
                    std::isnan(seconds) ? "" : fmt::format(" in {}", format_duration(seconds)),
                    is_best ? paint(kGreen, " (best so far)") : ""));
}

void TerminalView::sample(const Json& data) {
  print(fmt::format("{} {}", paint(kBold, "prompt:"), text_at(data, "prompt")));
  print(fmt::format("{}   {}", paint(kDim, "base:"), text_at(data, "base")));
  print(fmt::format("{}  {}", paint(kGreen, "tuned:"), text_at(data, "tuned")));
}

void TerminalView::finished(const Event& event) {
  is_over_ = true;
  options_.quiet = false;
  const Json& data = event.data;
  std::vector<std::string> parts;
  const auto add = [&](const char* key, const char* name) {
    if (const double value = number(data, key); !std::isnan(value)) {
      parts.push_back(fmt::format("{} {}", name, format_loss(value)));
    }
  };
  add("train_loss", "train loss");
  add("best_val_loss", "best val loss");
  add("test_loss", "test loss");
  if (const double perplexity = number(data, "test_perplexity"); !std::isnan(perplexity)) {
    parts.push_back(fmt::format("test perplexity {:.4g}", perplexity));
  }
  print(fmt::format("{} after {} steps in {}{}{}", paint(kBold, text_at(data, "reason")), event.step,
                    format_duration(number(data, "seconds", 0)), parts.empty() ? "" : ": ",
                    fmt::join(parts, ", ")));
  if (const std::string path = text_at(data, "adapter_path"); !path.empty()) {
    print("adapters: " + path);
  }
}

std::string TerminalView::remaining() const {
  const std::int64_t done = step_ - first_step_;
  if (first_step_ < 0 || done <= 0 || iters_ <= step_) {
    return "";
  }
  const double seconds_a_step = (clock_() - first_time_) / static_cast<double>(done);
  return format_duration(seconds_a_step * static_cast<double>(iters_ - step_));
}

std::string TerminalView::bar_line() const {
  const double share =
      iters_ > 0 ? std::min(1.0, static_cast<double>(step_) / static_cast<double>(iters_)) : 0.0;
  std::string tail = fmt::format("{}/{}", step_, iters_);
  if (const double epoch = batches_per_epoch_ > 0 || epoch_ > 0 ? epoch_ : 0; epoch > 0) {
    tail += fmt::format("  epoch {:.2f}", epoch);
  }
  if (const std::string left = remaining(); !left.empty()) {
    tail += "  ETA " + left;
  }
  const int width = std::clamp(options_.width - static_cast<int>(tail.size()) - 10, 0, 40);
  const int filled = static_cast<int>(std::lround(share * width));
  std::string full, empty;
  for (int i = 0; i < width; ++i) {
    (i < filled ? full : empty) += i < filled ? "━" : "─";
  }
  return fmt::format("{:3.0f}% {}{}  {}", 100 * share, paint(kGreen, full), paint(kDim, empty), tail);
}

std::string TerminalView::status_line() const {
  return join_within(step_parts(last_, val_loss_), static_cast<std::size_t>(options_.width - 1));
}

std::string TerminalView::report_line(const Event& event) const {
  std::string line = fmt::format("step {}/{}", event.step, iters_);
  if (const double epoch = number(event.data, "epoch"); !std::isnan(epoch)) {
    line += fmt::format("  epoch {:.2f}", epoch);
  }
  for (const std::string& part : step_parts(event.data, val_loss_)) {
    line += "  " + part;
  }
  const std::string left = remaining();
  return line + (left.empty() ? "" : "  ETA " + left);
}

void TerminalView::print(const std::string& line) {
  if (options_.quiet) {
    return;
  }
  erase();
  std::fputs((line + "\n").c_str(), stream_);
  draw(true);
  std::fflush(stream_);
}

void TerminalView::draw(bool now) {
  if (!options_.interactive || options_.quiet || is_over_ || iters_ == 0) {
    return;
  }
  const double time = clock_();
  if (!now && last_draw_ >= 0 && time - last_draw_ < kRedrawSeconds) {
    return;
  }
  last_draw_ = time;
  options_.width = columns(stream_, options_.width);
  // Each line is cleared as it is rewritten: no flicker.
  const std::string up = is_drawn_ ? "\x1b[1A\r" : "\r";
  std::fputs(fmt::format("{}\x1b[2K{}\n\x1b[2K{}", up, bar_line(), status_line()).c_str(), stream_);
  std::fflush(stream_);
  is_drawn_ = true;
}

void TerminalView::erase() {
  if (is_drawn_) {
    std::fputs("\r\x1b[2K\x1b[1A\x1b[2K", stream_);
    is_drawn_ = false;
  }
}

std::string TerminalView::paint(const char* code, const std::string& text_) const {
  return options_.color && !text_.empty() ? fmt::format("\x1b[{}m{}\x1b[0m", code, text_) : text_;
}

} // namespace temper::cli
