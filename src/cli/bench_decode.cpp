// temper bench decode: how fast prompts are read and answers generated, one text at a time and many.
#include <cstdint>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "cli/args.h"
#include "cli/bench.h"
#include "temper/base/clock.h"
#include "temper/infer/token_stream.h"
#include "temper/nn/device.h"

namespace temper::cli {
namespace {

struct DecodeOptions {
  std::string shape = "tiny";
  std::string dtype = "auto";
  int rows = 32;
  int prompt = 128;
  int tokens = 128;
  int prefill_chunk = 512;
};

// Prompts of `length` tokens each, none beginning like another.
std::vector<std::vector<std::int32_t>> random_prompts(int rows, int length, int vocab_size) {
  std::vector<std::vector<std::int32_t>> prompts(static_cast<std::size_t>(rows));
  std::uint32_t state = 1;
  for (auto& prompt : prompts) {
    for (int i = 0; i < length; ++i) {
      state = state * 1664525U + 1013904223U;
      prompt.push_back(static_cast<std::int32_t>((state >> 8) % static_cast<std::uint32_t>(vocab_size)));
    }
  }
  return prompts;
}

struct Speed {
  double prompt_tokens_per_second = 0;
  double tokens_per_second = 0;
  double peak_memory_gb = 0;
};

Speed measure(const Model& model, const DecodeOptions& options, int rows) {
  const auto prompts = random_prompts(rows, options.prompt, model.spec.vocab_size);
  TokenStream stream(ModelView(model), {}, options.prefill_chunk);
  mx::reset_peak_memory();
  Stopwatch watch;
  stream.start(prompts);
  stream.next(true);
  const double prompt_seconds = watch.seconds();
  watch.restart();
  for (int i = 1; i < options.tokens; ++i) {
    stream.next(i + 1 < options.tokens);
  }
  const double count = rows;
  return {count * options.prompt / prompt_seconds, count * (options.tokens - 1) / watch.seconds(),
          memory_use().peak_gb};
}

Json speed_json(const Speed& speed, int rows) {
  return {{"rows", rows},
          {"prompt_tokens_per_second", speed.prompt_tokens_per_second},
          {"tokens_per_second", speed.tokens_per_second},
          {"peak_memory_gb", speed.peak_memory_gb}};
}

} // namespace

int run_bench_decode(const Arguments& arguments) {
  DecodeOptions options;
  Args args("bench decode", "Speed and memory of reading prompts and generating, on random weights.",
            "temper bench decode --shape tiny --rows 32 --prompt 128 --tokens 128 --json");
  args.add("shape", &options.shape, "a config.json, or a name in bench/shapes").metavar("SHAPE");
  args.add("dtype", &options.dtype, "what the model computes in; auto: bfloat16 on a GPU, float32 on a CPU")
      .one_of({"auto", "float32", "bfloat16", "float16"});
  args.add("rows", &options.rows, "texts at once, measured beside one alone").at_least(1);
  args.add("prompt", &options.prompt, "tokens of a prompt").at_least(1);
  args.add("tokens", &options.tokens, "tokens generated for each").at_least(2);
  args.add("prefill_chunk", &options.prefill_chunk, "prompt tokens read at once").at_least(1);
  if (!args.parse(arguments)) {
    return 0;
  }
  prepare_device();
  const auto model = random_model(options.shape, options.dtype);
  measure(model, {.prompt = options.prompt, .tokens = 8}, 1); // warm-up: pages, kernels
  Json result{{"shape", options.shape},   {"dtype", dtype_name(model.dtype)}, {"device", device_name()},
              {"prompt", options.prompt}, {"tokens", options.tokens},         {"runs", Json::array()}};
  for (const int rows : {1, options.rows}) {
    const auto speed = measure(model, options, rows);
    result["runs"].push_back(speed_json(speed, rows));
    if (!args.json()) {
      fmt::print("{} at once: prompt {:.0f} tokens/s, answers {:.0f} tokens/s, peak {:.2f} GB\n", rows,
                 speed.prompt_tokens_per_second, speed.tokens_per_second, speed.peak_memory_gb);
    }
  }
  if (args.json()) {
    print_json(result);
  }
  return 0;
}

} // namespace temper::cli
