#include "cli/interrupt.h"

#include <csignal>

#include <unistd.h>

#include "temper/base/error.h"
#include "temper/base/log.h"
#include "temper/net/progress.h"

namespace temper::cli {
namespace {

std::atomic<int> received{0};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler writes it");

extern "C" void on_signal(int signal) {
  int none = 0;
  if (!received.compare_exchange_strong(none, signal)) {
    ::_exit(interrupt_exit_code(signal));
  }
}

} // namespace

void catch_interrupts() {
  received = 0;
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART; // a save in progress is not cut short by a failing system call
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  end_downloads_on(received);
}

const std::atomic<int>& interrupt_signal() {
  return received;
}

void throw_if_interrupted() {
  if (received != 0) {
    throw Interrupted{};
  }
}

int end_interrupted(const std::string& out) {
  log::info("Interrupted; nothing is left of " + out);
  return interrupt_exit_code(received);
}

int interrupt_exit_code(int signal) {
  return static_cast<int>(signal == SIGTERM ? ExitCode::terminated : ExitCode::interrupted);
}

} // namespace temper::cli
