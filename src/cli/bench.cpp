// temper bench: times the parts of a run on random weights, so that a figure needs no download.
#include "cli/bench.h"

#include "cli/verbs.h"

namespace temper::cli {

int run_bench(const Arguments& arguments) {
  static const std::vector<Verb> kBenches = {{"step", "a training step", run_bench_step},
                                             {"data", "tokenizing and making batches", run_bench_data},
                                             {"decode", "reading prompts and generating", run_bench_decode},
                                             {"load", "reading a model folder", run_bench_load}};
  return run_subverb("bench", "Times the parts of a run.", arguments, kBenches);
}

} // namespace temper::cli
