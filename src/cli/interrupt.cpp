#include "cli/interrupt.h"

#include <cerrno>
#include <csignal>

#include <spawn.h>
#include <sys/wait.h>
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

extern "C" char** environ;

// In place of libc's, for the calls of the libraries in this program: MLX asks `g++ --version` as it compiles
// its first function. Libc's ignores SIGINT for so long in this process, where it is lost, and not in the
// command, which it ends. This one leaves both to the handler above: nothing is ignored here, and the command
// sees neither.
extern "C" __attribute__((visibility("default"))) int system(const char* command) {
  if (command == nullptr) {
    return 1;
  }
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGINT);
  sigaddset(&blocked, SIGTERM);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setsigmask(&attributes, &blocked);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  const char* arguments[] = {"sh", "-c", command, nullptr};
  pid_t child = 0;
  const int failure =
      ::posix_spawn(&child, "/bin/sh", nullptr, &attributes, const_cast<char* const*>(arguments), environ);
  posix_spawnattr_destroy(&attributes);
  if (failure != 0) {
    return -1;
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) {
      return -1;
    }
  }
  return status;
}
