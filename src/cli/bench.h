// What the benches share.
#pragma once

#include <string>

#include "cli/verb.h"
#include "temper/io/model_folder.h"

namespace temper::cli {

// Random weights for a config.json, given by path or by its name in bench/shapes of the working folder. `dtype`
// "auto": bfloat16 on a GPU. Throws ConfigError if there is no such file, ModelError if it is no family's.
Model random_model(const std::string& shape, const std::string& dtype);

int run_bench_step(const Arguments& arguments);
int run_bench_data(const Arguments& arguments);
int run_bench_decode(const Arguments& arguments);
int run_bench_load(const Arguments& arguments);

} // namespace temper::cli
