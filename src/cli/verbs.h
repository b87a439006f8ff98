// Each verb's entry point, in a file of its name.
#pragma once

#include "cli/verb.h"

namespace temper::cli {

int run_adapter(const Arguments& arguments);
int run_bench(const Arguments& arguments);
int run_chat(const Arguments& arguments);
int run_convert(const Arguments& arguments);
int run_data(const Arguments& arguments);
int run_eval(const Arguments& arguments);
int run_export(const Arguments& arguments);
int run_fuse(const Arguments& arguments);
int run_generate(const Arguments& arguments);
int run_models(const Arguments& arguments);
int run_train(const Arguments& arguments);
int run_upload(const Arguments& arguments);

} // namespace temper::cli
