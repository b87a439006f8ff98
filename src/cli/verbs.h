// Each verb's entry point, in a file of its name.
#pragma once

#include "cli/verb.h"

namespace temper::cli {

int run_train(const Arguments& arguments);

} // namespace temper::cli
