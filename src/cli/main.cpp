#include <cstdio>
#include <cstdlib>

#include "cli/verb.h"
#include "temper/nn/device.h"

namespace {

int exit_code = 0;

// Registered first, so run last: what the program made is destroyed by then, and no library is unloaded yet.
// OpenBLAS, unloaded, joins its threads, and one that is just falling asleep then never wakes (0.3.21).
void leave_libraries_loaded() {
  std::fflush(nullptr);
  std::_Exit(exit_code);
}

} // namespace

int main(int argc, char** argv) {
  std::atexit(leave_libraries_loaded);
  exit_code = temper::cli::run_program({argv + 1, argv + argc}, temper::cli::verbs());
  temper::finish_device();
  return exit_code;
}
