#include "cli/interrupt.h"

#include <doctest/doctest.h>

#include <csignal>

#include <sys/wait.h>
#include <unistd.h>

using namespace temper::cli;

namespace {

// How a child ends that catches interrupts and then sends itself `signals`.
int exit_code_after(std::initializer_list<int> signals) {
  const pid_t child = ::fork();
  if (child == 0) {
    catch_interrupts();
    for (const int signal : signals) {
      std::raise(signal);
    }
    ::_exit(interrupt_signal() == 0 ? 0 : 50 + interrupt_signal());
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

} // namespace

TEST_CASE("the first Ctrl-C or SIGTERM only sets the flag") {
  CHECK(exit_code_after({}) == 0);
  CHECK(exit_code_after({SIGINT}) == 50 + SIGINT);
  CHECK(exit_code_after({SIGTERM}) == 50 + SIGTERM);
}

TEST_CASE("the second ends the program at once") {
  CHECK(exit_code_after({SIGINT, SIGINT}) == 130);
  CHECK(exit_code_after({SIGINT, SIGTERM}) == 143);
}

TEST_CASE("exit codes of signals") {
  CHECK(interrupt_exit_code(SIGINT) == 130);
  CHECK(interrupt_exit_code(SIGTERM) == 143);
}
