// temper bench decode: how fast prompts are read and answers generated, one text at a time and many.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "cli/args.h"
#include "cli/bench.h"
#include "temper/infer/continuous_batch.h"
#include "temper/nn/device.h"

namespace temper::cli {
namespace {

struct DecodeOptions {
  std::string shape = "tiny";
  std::string lengths = "full";
  std::string dtype = "auto";
  int rows = 32;
  int prompt = 128;
  int tokens = 128;
  int prompts = 0;
  int prefill_chunk = 512;
};

// full: `prompt` tokens and `tokens` of answer. mixed: both log-normal around half of them (median), at most
// twice that. No prompt begins like another.
std::vector<BatchPrompt> random_prompts(const DecodeOptions& options, int count, int vocab_size) {
  std::mt19937_64 random(0);
  std::lognormal_distribution<double> share(std::log(0.5), 0.75);
  std::uniform_int_distribution<std::int32_t> token(0, vocab_size - 1);
  const auto length = [&](int most) {
    return options.lengths == "full" ? most : std::clamp(static_cast<int>(share(random) * most), 2, most);
  };
  std::vector<BatchPrompt> prompts(static_cast<std::size_t>(count));
  for (auto& prompt : prompts) {
    prompt.tokens.resize(static_cast<std::size_t>(length(options.prompt)));
    std::generate(prompt.tokens.begin(), prompt.tokens.end(), [&] { return token(random); });
    prompt.max_tokens = length(options.tokens);
  }
  return prompts;
}

Json measure(const Model& model, const DecodeOptions& options, int rows, int count) {
  const auto prompts = random_prompts(options, count, model.spec.vocab_size);
  const BatchOptions batch{.sampling = {}, .prefill_chunk = options.prefill_chunk, .batch_size = rows};
  BatchSpeed speed;
  mx::reset_peak_memory();
  run_batch(
      ModelView(model), prompts, batch, [](std::size_t) {},
      [&](std::size_t, std::int32_t) {
        ++speed.tokens;
        return true;
      },
      speed);
  return {{"rows", rows},
          {"prompts", count},
          {"prompt_tokens_per_second", speed.prompt_tokens_per_second()},
          {"tokens_per_second", speed.tokens_per_second()},
          {"answers_per_second", count / speed.seconds},
          {"seconds", speed.seconds},
          {"peak_memory_gb", memory_use().peak_gb}};
}

} // namespace

int run_bench_decode(const Arguments& arguments) {
  DecodeOptions options;
  Args args("bench decode", "Speed and memory of reading prompts and generating, on random weights.",
            "temper bench decode --shape tiny --rows 32 --prompt 128 --tokens 128 --json");
  args.add("shape", &options.shape, "a config.json, or a name in bench/shapes").metavar("SHAPE");
  args.add("dtype", &options.dtype, "what the model computes in; auto: bfloat16 on a GPU, float32 on a CPU")
      .one_of({"auto", "float32", "bfloat16", "float16"});
  args.add("lengths", &options.lengths, "full, or log-normal ones (median half) of prompts and answers")
      .one_of({"full", "mixed"});
  args.add("rows", &options.rows, "texts at once, measured beside one alone").at_least(1);
  args.add("prompts", &options.prompts, "texts in all, of which those beyond the rows wait; 0: as many as rows")
      .at_least(0);
  args.add("prompt", &options.prompt, "tokens of a full prompt").at_least(2);
  args.add("tokens", &options.tokens, "tokens of a full answer").at_least(2);
  args.add("prefill_chunk", &options.prefill_chunk, "prompt tokens read at once").at_least(1);
  if (!args.parse(arguments)) {
    return 0;
  }
  prepare_device();
  const auto model = random_model(options.shape, options.dtype);
  measure(model, {.prompt = options.prompt, .tokens = 8}, 1, 1); // warm-up: pages, kernels
  Json result{{"shape", options.shape},     {"dtype", dtype_name(model.dtype)}, {"device", device_name()},
              {"lengths", options.lengths}, {"prompt", options.prompt},         {"tokens", options.tokens},
              {"runs", Json::array()}};
  for (const int rows : {1, options.rows}) {
    const auto run = measure(model, options, rows, rows == 1 ? 1 : std::max(rows, options.prompts));
    if (!args.json()) {
      fmt::print("{} at once: prompts {:.0f} tokens/s, answers {:.0f} tokens/s, {:.2f} s, peak {:.2f} GB\n",
                 rows, run["prompt_tokens_per_second"].get<double>(), run["tokens_per_second"].get<double>(),
                 run["seconds"].get<double>(), run["peak_memory_gb"].get<double>());
    }
    result["runs"].push_back(run);
  }
  if (args.json()) {
    print_json(result);
  }
  return 0;
}

} // namespace temper::cli
