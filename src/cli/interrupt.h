// Ctrl-C and SIGTERM: the first asks the work to end tidily, the second ends the program.
#pragma once

#include <atomic>
#include <string>

namespace temper::cli {

// From now on SIGINT and SIGTERM set interrupt_signal(); a second one exits at once with 130 or 143.
void catch_interrupts();

// 0, or the first signal that arrived since catch_interrupts(). Poll it between steps.
const std::atomic<int>& interrupt_signal();

// Thrown by throw_if_interrupted(), to leave work half-way.
struct Interrupted {};
// For work that takes a callback between its steps.
void throw_if_interrupted();
// Says that nothing is left of `out`, and gives the exit code.
int end_interrupted(const std::string& out);

// The exit code after such a signal: 130 for SIGINT, 143 for SIGTERM.
int interrupt_exit_code(int signal);

} // namespace temper::cli
