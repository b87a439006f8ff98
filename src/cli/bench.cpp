// temper bench: times the parts of a run on random weights, so that a figure needs no download.
#include <algorithm>
#include <cmath>
#include <random>
#include <string>

#include <fmt/format.h>

#include "cli/args.h"
#include "cli/bench.h"
#include "cli/verbs.h"
#include "temper/base/clock.h"
#include "temper/base/error.h"
#include "temper/base/log.h"
#include "temper/io/pack_model.h"
#include "temper/models/adapter_params.h"
#include "temper/models/decoder.h"
#include "temper/models/quant_plan.h"
#include "temper/nn/device.h"
#include "temper/train/step.h"

namespace temper::cli {
namespace {

struct BenchOptions {
  std::string shape = "tiny";
  std::string lengths = "full";
  std::string dtype = "auto";
  std::string quantize = "none";
  int bits = 4;
  int rows = 4;
  int width = 2048;
  int rank = 8;
  int steps = 10;
  int warmup = 3;
  bool packing = true;
  bool grad_checkpoint = false;
  std::string attention = "auto";
  double peak_tflops = 0;
  double memory_limit_gb = 0;
};

// full: every row `width` tokens, all targets. instruct: log-normal lengths (median 150, mean about 200),
// the first 60% a masked prompt; as the peers' scripts draw them (bench/peers).
std::shared_ptr<const TokenDataset> synthetic_data(const BenchOptions& options, int vocab_size) {
  std::mt19937_64 random(0);
  std::lognormal_distribution<double> length(std::log(150.0), 0.75);
  std::uniform_int_distribution<std::int32_t> token(0, vocab_size - 1);
  const bool full = options.lengths == "full";
  std::vector<Example> examples(static_cast<std::size_t>(std::max(256, options.rows * 8)));
  for (auto& example : examples) {
    const int count = full ? options.width : std::clamp(static_cast<int>(length(random)), 16, options.width);
    const int prompt = full ? 0 : static_cast<int>(0.6 * count);
    for (int i = 0; i < count; ++i) {
      example.tokens.push_back(token(random));
      example.supervised.push_back(i >= prompt && i > 0 ? 1 : 0);
    }
  }
  return make_token_dataset(std::move(examples));
}

LoaderOptions loader_options(const BenchOptions& options) {
  LoaderOptions loader;
  loader.batch_size = options.rows;
  loader.max_seq_length = options.width + 1;
  loader.packing = options.packing && options.lengths != "full";
  loader.pack_width = options.width;
  loader.width_multiple = mx::default_device() == mx::Device::cpu ? 32 : 128;
  loader.few_shapes = mx::default_device() != mx::Device::cpu;
  return loader;
}

// Multiply-adds of a step, counted twice: forward and input gradients of frozen matrices, causal attention.
double step_flops(const DecoderSpec& spec, double tokens, double mean_length) {
  double weights = static_cast<double>(spec.vocab_size) * spec.hidden_size;
  for (const auto& layer : matrix_layers(spec)) {
    // Of a mixture's experts a token visits the chosen ones.
    const double visits = layer.num_experts > 0 ? spec.moe.routing.num_chosen : 1;
    weights += visits * (layer.kind == LayerKind::embedding ? 0 : layer.out_features) * layer.in_features;
  }
  const double attention = 6.0 * spec.num_layers * spec.num_heads * spec.head_dim * mean_length;
  return tokens * (4.0 * weights + attention);
}

// With the weights packed where that is asked for, as a GPU has them in a run over a quantized base.
Model bench_model(const BenchOptions& options) {
  auto model = random_model(options.shape, options.dtype);
  if (options.quantize != "none") {
    const auto bits = options.quantize == "affine" ? std::optional(options.bits) : std::nullopt;
    pack_model(model, plan_quantization(model.spec, {make_quant_format(options.quantize, bits), "", {}}));
    for (auto& [name, array] : model.params) {
      mx::eval(array);
    }
  }
  return model;
}

Json run_step_bench(const BenchOptions& options) {
  prepare_device();
  if (options.memory_limit_gb > 0) {
    mx::set_memory_limit(static_cast<std::size_t>(1e9 * options.memory_limit_gb));
  }
  const auto model = bench_model(options);
  const auto data = synthetic_data(options, model.spec.vocab_size);
  StepOptions step_options;
  step_options.lora = {options.rank, 2.0F, 0.0F};
  step_options.optimizer = make_optimizer("adamw", {});
  step_options.checkpoint = options.grad_checkpoint;
  step_options.attention_kernel = attention_kernel_named(options.attention);
  step_options.scale_loss = model.dtype == mx::float16;
  TrainStep step(model, step_options);
  auto state = step.initial_state(init_adapter(step_options.lora, adaptable_layers(model.spec, -1, {}), 0), 0);
  BatchLoader loader(data, loader_options(options));

  WorkLimit work;
  Stopwatch watch;
  double first_step_seconds = 0;
  std::int64_t tokens = 0;
  std::int64_t padded = 0;
  auto loss = mx::array(0.0F);
  auto norm = mx::array(0.0F);
  for (int i = 0; i < options.warmup + options.steps; ++i) {
    if (i == options.warmup) {
      mx::eval(loss, norm, state.count);
      mx::reset_peak_memory();
      tokens = padded = 0;
      watch.restart();
    }
    const auto batch = loader.next();
    tokens += batch.num_tokens;
    padded += num_padded_tokens(batch);
    auto part = step.gradients(state, batch, 1.0F / static_cast<float>(batch.num_supervised));
    const auto outcome = step.update(state, part.gradients, 1e-5);
    ++state.micro_step;
    auto outputs = outcome.arrays;
    outputs.push_back(part.loss);
    if (options.memory_limit_gb == 0) {
      work.before_step(num_padded_tokens(batch));
    }
    mx::async_eval(outputs);
    work.after_step();
    loss.item<float>(); // the step before: one step runs ahead, as in training
    loss = part.loss;
    norm = outcome.grad_norm;
    if (i == 0) {
      loss.item<float>();
      first_step_seconds = watch.seconds();
    }
  }
  mx::eval(loss, norm, values(state.trainable)[0]);
  const double seconds = watch.seconds();
  const double mean_length = static_cast<double>(tokens) / options.steps / options.rows;
  const double flops = step_flops(model.spec, static_cast<double>(tokens) / options.steps, mean_length);
  Json result{{"shape", options.shape},
              {"lengths", options.lengths},
              {"rows", options.rows},
              {"width", options.width},
              {"rank", options.rank},
              {"dtype", dtype_name(model.dtype)},
              {"quantize", options.quantize},
              {"device", device_name()},
              {"packing", options.packing},
              {"grad_checkpoint", options.grad_checkpoint},
              {"attention", options.attention},
              {"steps", options.steps},
              {"tokens_per_second", static_cast<double>(tokens) / seconds},
              {"padded_tokens_per_second", static_cast<double>(padded) / seconds},
              {"step_ms", 1e3 * seconds / options.steps},
              {"first_step_ms", 1e3 * first_step_seconds},
              {"peak_memory_gb", memory_use().peak_gb},
              {"loss", loss.item<float>()},
              {"grad_norm", norm.item<float>()}};
  result["mfu"] =
      options.peak_tflops > 0 ? Json(flops * options.steps / seconds / (options.peak_tflops * 1e12)) : nullptr;
  return result;
}

std::vector<std::string> with_none(std::vector<std::string> names) {
  names.insert(names.begin(), "none");
  return names;
}

int run_bench_step(const Arguments& arguments) {
  BenchOptions options;
  Args args("bench step", "Speed and memory of a LoRA training step on random weights.",
            "temper bench step --shape tiny --lengths instruct --rows 4 --width 512 --json");
  args.add("shape", &options.shape, "a config.json, or a name in bench/shapes").metavar("SHAPE");
  args.add("lengths", &options.lengths, "full rows, or instruction lengths").one_of({"full", "instruct"});
  args.add("rows", &options.rows, "examples a step").at_least(1);
  args.add("width", &options.width, "tokens of a full row, at most of an instruction").at_least(16);
  args.add("rank", &options.rank, "LoRA rank").at_least(1);
  args.add("dtype", &options.dtype, "what the model computes in; auto: bfloat16 on a GPU, float32 on a CPU")
      .one_of({"auto", "float32", "bfloat16", "float16"});
  args.add("quantize", &options.quantize, "how the base's weights are packed; none: they are not")
      .one_of(with_none(quant_mode_names()));
  args.add("bits", &options.bits, "bits a weight, of affine").at_least(2);
  args.add("steps", &options.steps, "steps timed").at_least(1);
  args.add("warmup", &options.warmup, "steps before").at_least(1);
  args.add("packing", &options.packing, "several examples a row");
  args.add("grad_checkpoint", &options.grad_checkpoint, "recompute activations in the backward pass");
  args.add("attention", &options.attention, "what computes attention: as in training")
      .one_of({"auto", "fused", "blocked"});
  args.add("peak_tflops", &options.peak_tflops, "of the device, for mfu; 0: leave mfu out").at_least(0);
  args.add("memory_limit_gb", &options.memory_limit_gb,
           "above which the host waits for the GPU; 0: as in training, little above what a step needs")
      .at_least(0);
  if (!args.parse(arguments)) {
    return 0;
  }
  const auto result = run_step_bench(options);
  if (!(result["grad_norm"].get<double>() > 0)) {
    throw NonFinite("the gradient norm is not positive: this run measured nothing");
  }
  if (args.json()) {
    print_json(result);
  } else {
    fmt::print(
        "{:.0f} tokens/s ({:.0f} padded), {:.1f} ms a step, peak {:.2f} GB, loss {:.4f}, gradient norm "
        "{:.4f}\n",
        result["tokens_per_second"].get<double>(), result["padded_tokens_per_second"].get<double>(),
        result["step_ms"].get<double>(), result["peak_memory_gb"].get<double>(), result["loss"].get<double>(),
        result["grad_norm"].get<double>());
  }
  return 0;
}

} // namespace

int run_bench(const Arguments& arguments) {
  static const std::vector<Verb> kBenches = {{"step", "a training step", run_bench_step},
                                             {"data", "tokenizing and making batches", run_bench_data},
                                             {"decode", "reading prompts and generating", run_bench_decode},
                                             {"load", "reading a model folder", run_bench_load}};
  return run_subverb("bench", "Times the parts of a run.", arguments, kBenches);
}

} // namespace temper::cli
