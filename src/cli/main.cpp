#include "cli/verb.h"

int main(int argc, char** argv) {
  return temper::cli::run_program({argv + 1, argv + argc}, temper::cli::verbs());
}
