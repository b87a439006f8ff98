// temper bench load: how long a model folder takes until it can compute.
#include <filesystem>
#include <string>

#include <fmt/format.h>

#include "cli/args.h"
#include "cli/bench.h"
#include "temper/base/clock.h"
#include "temper/base/units.h"
#include "temper/infer/find_model.h"
#include "temper/nn/device.h"
#include "temper/text/tokenizer.h"

namespace temper::cli {
namespace {

std::size_t bytes_of(const Params& params) {
  std::size_t bytes = 0;
  for (const auto& [name, array] : params) {
    bytes += array.nbytes();
  }
  return bytes;
}

Json run_load_bench(const std::string& name, const std::string& dtype) {
  prepare_device();
  const auto folder = find_model(name);
  const Stopwatch describing;
  const auto tokenizer = Tokenizer::load(folder);
  const auto spec = load_spec(folder);
  const double description_seconds = describing.seconds();
  const Stopwatch reading;
  const auto model = load_model(folder, dtype);
  mx::eval(values(model.params));
  const double seconds = reading.seconds();
  const auto bytes = static_cast<double>(bytes_of(model.params));
  return {{"model", name},
          {"dtype", dtype_name(model.dtype)},
          {"device", device_name()},
          {"description_seconds", description_seconds},
          {"weights_seconds", seconds},
          {"weights_gb", gigabytes(bytes)},
          {"gb_per_second", per_second(gigabytes(bytes), seconds)},
          {"peak_memory_gb", memory_use().peak_gb}};
}

} // namespace

int run_bench_load(const Arguments& arguments) {
  std::string model;
  std::string dtype = "auto";
  Args args("bench load", "How long a model's tokenizer and weights take to read, and their memory.",
            "temper bench load --model models/llama --json");
  args.add("model", &model, "folder of the model, a GGUF file, or org/name on the hub")
      .metavar("DIR|NAME")
      .letter('m')
      .required();
  args.add("dtype", &dtype, "what the model computes in; auto: the model's own, float32 on a CPU")
      .one_of({"auto", "float32", "bfloat16", "float16"});
  if (!args.parse(arguments)) {
    return 0;
  }
  const auto result = run_load_bench(model, dtype);
  if (args.json()) {
    print_json(result);
  } else {
    fmt::print(
        "tokenizer and configuration {:.3f} s, weights {:.3f} s ({:.2f} GB, {:.2f} GB/s), peak {:.2f} GB\n",
        result["description_seconds"].get<double>(), result["weights_seconds"].get<double>(),
        result["weights_gb"].get<double>(), result["gb_per_second"].get<double>(),
        result["peak_memory_gb"].get<double>());
  }
  return 0;
}

} // namespace temper::cli
