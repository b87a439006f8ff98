#include "cli/terminal_view.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "temper/base/log.h"

using namespace temper;
using namespace temper::cli;

namespace {

// A view whose output and clock the test holds.
class Screen {
 public:
  explicit Screen(TerminalOptions options)
      : stream_(::open_memstream(&bytes_, &size_)),
        view_(std::make_unique<TerminalView>(stream_, options, [this] { return now; })) {
  }
  ~Screen() {
    view_.reset();
    std::fclose(stream_);
    std::free(bytes_);
  }
  void send(const std::string& type, std::int64_t step, Json data) {
    view_->on_event({type, 0, step, std::move(data)});
  }
  void progress(std::int64_t step) {
    view_->on_progress(step);
  }
  // What was written since the last call.
  std::string take() {
    std::fflush(stream_);
    const std::string all(bytes_, size_);
    std::string fresh = all.substr(taken_);
    taken_ = all.size();
    return fresh;
  }

  double now = 0;

 private:
  char* bytes_ = nullptr;
  std::size_t size_ = 0;
  std::size_t taken_ = 0;
  std::FILE* stream_;
  std::unique_ptr<TerminalView> view_;
};

const Json kStarted = {{"model", "models/tiny"},
                       {"trainable_parameters", 4000},
                       {"total_parameters", 8000000},
                       {"train_examples", 500},
                       {"valid_examples", 50},
                       {"test_examples", 20},
                       {"iters", 100},
                       {"batches_per_epoch", 50},
                       {"run_dir", "runs/x"},
                       {"device", "cpu"},
                       {"dtype", "float32"}};
const Json kStep = {{"loss", 1.25},
                    {"learning_rate", 1e-4},
                    {"grad_norm", 0.5},
                    {"tokens", 1000},
                    {"tokens_per_second", 12345.0},
                    {"padded_tokens_per_second", 15000.0},
                    {"iterations_per_second", 2.5},
                    {"epoch", 0.2},
                    {"memory_gb", 1.5},
                    {"peak_memory_gb", 2.0},
                    {"total_memory_gb", 16.0},
                    {"skipped", 1}};

} // namespace

TEST_CASE("counts and durations are short") {
  CHECK(format_count(0) == "0");
  CHECK(format_count(950) == "950");
  CHECK(format_count(999.6) == "1.00k");
  CHECK(format_count(12345) == "12.3k");
  CHECK(format_count(999999) == "1.00M");
  CHECK(format_count(1.05e9) == "1.05G");
  CHECK(format_duration(7) == "0:07");
  CHECK(format_duration(754) == "12:34");
  CHECK(format_duration(3723) == "1:02:03");
  CHECK(format_duration(-1) == "0:00");
}

TEST_CASE("without a terminal there is one plain line a report") {
  Screen screen({});
  screen.send("run_started", 0, kStarted);
  const std::string started = screen.take();
  CHECK(started.find("model models/tiny: 4.00k of 8.00M parameters train (0.05%), cpu, float32\n") == 0);
  CHECK(started.find("500 training, 50 validation, 20 test examples; 100 steps\n") != std::string::npos);
  screen.progress(1);
  CHECK(screen.take().empty());
  screen.now = 8;
  screen.send("step", 9, kStep);
  CHECK(
      screen.take() ==
      "step 9/100  epoch 0.20  loss 1.2500  lr 1.00e-04  grad 0.5  2.50 it/s  12.3k tok/s (15.0k padded)  mem "
      "1.50 GB (peak 2.00)  skipped 1  ETA 1:31\n");
  screen.send("eval", 10,
              {{"split", "valid"},
               {"loss", 1.5},
               {"perplexity", 4.48},
               {"tokens", 2000},
               {"seconds", 1.2},
               {"best", true}});
  CHECK(screen.take() == "step 10: valid loss 1.5000, perplexity 4.48, 2.00k tokens in 0:01 (best so far)\n");
  screen.send("checkpoint", 10, {{"path", "runs/x/c"}, {"kind", "best"}});
  CHECK(screen.take() == "step 10: saved best runs/x/c\n");
  screen.send("warning", 10, {{"message", "look out"}});
  CHECK(screen.take() == "warning: look out\n");
  screen.send("sample", 10, {{"prompt", "p"}, {"base", "b"}, {"tuned", "t"}});
  CHECK(screen.take() == "prompt: p\nbase:   b\ntuned:  t\n");
  screen.send("finished", 100,
              {{"reason", "completed"},
               {"seconds", 65.0},
               {"train_loss", 1.0},
               {"best_val_loss", 1.1},
               {"test_loss", nullptr},
               {"adapter_path", "runs/x/adapters.safetensors"}});
  CHECK(screen.take() ==
        "completed after 100 steps in 1:05: train loss 1.0000, best val loss 1.1000\n"
        "adapters: runs/x/adapters.safetensors\n");
}

TEST_CASE("quiet says the result only") {
  TerminalOptions options;
  options.quiet = true;
  options.interactive = true;
  Screen screen(options);
  screen.send("run_started", 0, kStarted);
  screen.progress(1);
  screen.send("step", 1, kStep);
  screen.send("warning", 1, {{"message", "x"}});
  CHECK(screen.take().empty());
  screen.send("finished", 100, {{"reason", "completed"}, {"seconds", 1.0}});
  CHECK(screen.take() == "completed after 100 steps in 0:01\n");
}

TEST_CASE("a terminal shows a bar that is redrawn in place, at most ten times a second") {
  TerminalOptions options;
  options.interactive = true;
  options.width = 200;
  Screen screen(options);
  screen.send("run_started", 0, kStarted);
  screen.take();
  screen.now = 1;
  screen.progress(10);
  const std::string drawn = screen.take();
  CHECK(drawn.find("\x1b[1A\r") == 0);
  CHECK(drawn.find(" 10% ") != std::string::npos);
  CHECK(drawn.find("10/100") != std::string::npos);
  screen.now = 1.05;
  screen.progress(11);
  CHECK(screen.take().empty());
  screen.now = 2;
  screen.progress(20);
  CHECK(screen.take().find("ETA 0:08") != std::string::npos);
  screen.send("step", 20, kStep);
  const std::string status = screen.take();
  CHECK(status.find("loss 1.2500") != std::string::npos);
  CHECK(status.find("step 20/100") == std::string::npos);
}

TEST_CASE("on a terminal lines scroll by above the bar, which ends with the run") {
  TerminalOptions options;
  options.interactive = true;
  Screen screen(options);
  screen.send("run_started", 0, kStarted);
  screen.take();
  screen.send("warning", 1, {{"message", "look out"}});
  const std::string warned = screen.take();
  CHECK(warned.find("\r\x1b[2K\x1b[1A\x1b[2Kwarning: look out\n") == 0);
  CHECK(warned.find("/100") != std::string::npos);
  screen.send("finished", 100, {{"reason", "completed"}, {"seconds", 1.0}});
  const std::string ended = screen.take();
  CHECK(ended.substr(ended.size() - 34) == "completed after 100 steps in 0:01\n");
}

TEST_CASE("log lines appear above the bar, and go to standard error again afterwards") {
  TerminalOptions options;
  options.interactive = true;
  Screen screen(options);
  screen.send("run_started", 0, kStarted);
  screen.take();
  log::warn("from a loader");
  CHECK(screen.take().find("\r\x1b[2K\x1b[1A\x1b[2Kwarning: from a loader\n") == 0);
}

TEST_CASE("no line of the bar is wider than the terminal") {
  TerminalOptions options;
  options.interactive = true;
  for (const int width : {20, 40, 60, 80, 120, 200}) {
    options.width = width;
    Screen screen(options);
    screen.send("run_started", 0, kStarted);
    screen.send("step", 10, kStep);
    screen.take();
    screen.now += 1;
    screen.progress(20);
    std::string drawn = screen.take();
    int columns = 0, widest = 0;
    for (std::size_t i = 0; i < drawn.size(); ++i) {
      if (drawn[i] == '\x1b') {
        i = drawn.find_first_of("AKm", i);
      } else if (drawn[i] == '\n' || drawn[i] == '\r') {
        columns = 0;
      } else if ((static_cast<unsigned char>(drawn[i]) & 0xC0) != 0x80) {
        widest = std::max(widest, ++columns);
      }
    }
    CAPTURE(width);
    CHECK(widest > 0);
    CHECK(widest <= std::max(width, 40));
  }
}

TEST_CASE("missing and null numbers are left out, not printed") {
  Screen screen({});
  screen.send("run_started", 0, {{"iters", 10}});
  screen.take();
  screen.send("step", 1, {{"loss", nullptr}, {"learning_rate", 0.1}});
  CHECK(screen.take() == "step 1/10  lr 1.00e-01\n");
}
