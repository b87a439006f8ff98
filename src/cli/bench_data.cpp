// temper bench data: how fast rows become tokens and tokens batches, and in how much memory.
#include <algorithm>
#include <filesystem>
#include <string>

#include <fmt/format.h>
#include <sys/resource.h>

#include "cli/args.h"
#include "cli/bench.h"
#include "temper/base/clock.h"
#include "temper/base/private_folder.h"
#include "temper/base/units.h"
#include "temper/data/loader.h"
#include "temper/data/prepared_data.h"
#include "temper/infer/find_model.h"
#include "temper/net/resolve.h"

namespace temper::cli {
namespace {

namespace fs = std::filesystem;

struct DataBenchOptions {
  RunConfig config;
  double seconds = 10;
};

rusage own_usage() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return usage;
}

// Processor seconds of all threads so far.
double processor_seconds() {
  const auto usage = own_usage();
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double peak_resident_gb() {
#if defined(__APPLE__)
  constexpr double kUnit = 1; // bytes
#else
  constexpr double kUnit = 1024;
#endif
  return gigabytes(kUnit * static_cast<double>(own_usage().ru_maxrss));
}

// Real tokens of batches made for at most `seconds`, or one pass.
Json measure_loader(const std::shared_ptr<const TokenDataset>& data, const RunConfig& config, double seconds) {
  LoaderOptions options;
  options.batch_size = config.batch_size;
  options.max_seq_length = config.max_seq_length;
  options.packing = config.packing;
  BatchLoader loader(data, options);
  const auto all = loader.batches_per_epoch();
  std::int64_t tokens = 0;
  std::uint64_t batches = 0;
  const Stopwatch watch;
  for (; batches < all && watch.seconds() < seconds; ++batches) {
    tokens += loader.next().num_tokens;
  }
  return {{"batches", batches},
          {"tokens_per_second", per_second(static_cast<double>(tokens), watch.seconds())}};
}

Json run_data_bench(const DataBenchOptions& options) {
  auto config = options.config;
  const PrivateFolder cache; // a fresh one, so that the tokens are really made
  config.cache_dir = cache.path().string();
  const Stopwatch start;
  const auto tokenizer = Tokenizer::load(find_model(config.model, config.revision, ModelFiles::description));
  const double tokenizer_seconds = start.seconds();
  const auto path = resolve_data(config.data);

  const double before = processor_seconds();
  const Stopwatch making;
  const auto made = prepare_split(path, "train", config, tokenizer, 0);
  const double seconds = making.seconds();
  const double processor = processor_seconds() - before;
  const double peak = peak_resident_gb();
  const Stopwatch opening;
  const auto opened = prepare_split(path, "train", config, tokenizer, 0);
  const double open_seconds = opening.seconds();

  const auto tokens = static_cast<double>(made.report.tokens);
  const auto bytes = static_cast<double>(fs::file_size(made.report.path));
  Json result{{"path", made.report.path},
              {"bytes", bytes},
              {"rows", made.report.rows},
              {"tokens", made.report.tokens},
              {"tokenizer_seconds", tokenizer_seconds},
              {"seconds", seconds},
              {"tokens_per_second", per_second(tokens, seconds)},
              {"tokens_per_core_second", per_second(tokens, processor)},
              {"megabytes_per_second", per_second(bytes / 1e6, seconds)},
              {"peak_resident_gb", peak},
              {"cached", {{"from_cache", opened.report.from_cache}, {"seconds", open_seconds}}}};
  result["loader"] = measure_loader(opened.data, config, options.seconds);
  return result;
}

} // namespace

int run_bench_data(const Arguments& arguments) {
  DataBenchOptions options;
  auto& config = options.config;
  Args args("bench data",
            "Speed and memory of tokenizing a data set's training file, opening its cache and making batches.",
            "temper bench data --model models/llama --data data/ --json");
  args.add("model", &config.model, "whose tokenizer and chat template to use: a folder, or org/name on the hub")
      .metavar("DIR|NAME")
      .letter('m')
      .required();
  args.add("data", &config.data, "folder of train, valid and test files, one file, or hf://datasets/org/name")
      .metavar("PATH")
      .letter('d')
      .required();
  args.add("batch_size", &config.batch_size, "examples a batch").at_least(1);
  args.add("max_seq_length", &config.max_seq_length, "tokens of a row at most").at_least(2);
  args.add("packing", &config.packing, "several examples a row");
  args.add("seconds", &options.seconds, "time for batches at most").above(0);
  if (!args.parse(arguments)) {
    return 0;
  }
  const auto result = run_data_bench(options);
  if (args.json()) {
    print_json(result);
  } else {
    fmt::print(
        "tokenizing {:.0f} tokens/s ({:.0f} a core second, {:.1f} MB/s), cache opened in {:.3f} s, batches of "
        "{:.0f} "
        "tokens/s, peak resident {:.2f} GB\n",
        result["tokens_per_second"].get<double>(), result["tokens_per_core_second"].get<double>(),
        result["megabytes_per_second"].get<double>(), result["cached"]["seconds"].get<double>(),
        result["loader"]["tokens_per_second"].get<double>(), result["peak_resident_gb"].get<double>());
  }
  return 0;
}

} // namespace temper::cli
