// temper bench step: a LoRA training step on random weights, as the trainer takes it.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>
#include <random>
#include <string>

#include <fmt/format.h>

#include "cli/args.h"
#include "cli/bench.h"
#include "temper/base/clock.h"
#include "temper/base/error.h"
#include "temper/base/files.h"
#include "temper/base/log.h"
#include "temper/base/units.h"
#include "temper/data/split_batch.h"
#include "temper/io/pack_model.h"
#include "temper/models/adapter_params.h"
#include "temper/models/quant_plan.h"
#include "temper/nn/device.h"
#include "temper/train/memory_plan.h"
#include "temper/train/run_options.h"
#include "temper/train/step_profile.h"
#include "temper/train/step_queue.h"

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
  double memory_limit = 0;
  int micro_batch_tokens = 0;
  double memory_limit_gb = 0;
  bool checkpoints_on_host = false;
  std::string profile;
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

LoaderOptions loader_options(const BenchOptions& options, const TokenDataset& data) {
  LoaderOptions loader;
  loader.batch_size = options.rows;
  loader.max_seq_length = options.width + 1;
  loader.packing = options.packing && options.lengths != "full";
  loader.pack_width = options.width;
  suit_device(loader);
  loader.micro_batch_tokens = options.micro_batch_tokens;
  bound_micro_batches(loader, data);
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

StepOptions step_options(const BenchOptions& options, const Model& model) {
  StepOptions step;
  step.lora = {options.rank, 2.0F, 0.0F};
  step.optimizer = make_optimizer("adamw", {});
  step.checkpoint = options.grad_checkpoint;
  if (options.checkpoints_on_host) {
    step.host_store = HostStore::for_device();
  }
  step.attention_kernel = attention_kernel_named(options.attention);
  step.scale_loss = model.dtype == mx::float16;
  return step;
}

// Steps as the trainer takes them, timed.
class StepBench {
 public:
  explicit StepBench(const BenchOptions& options)
      : options_(options),
        model_(bench_model(options)),
        model_seconds_(since_start_.seconds()),
        data_(synthetic_data(options, model_.spec.vocab_size)),
        loading_(loader_options(options, *data_)),
        stepping_(step_options(options, model_)),
        state_(TrainStep(model_, stepping_)
                   .initial_state(init_adapter(stepping_.lora, adaptable_layers(model_.spec, -1, {}), 0), 0)) {
    plan();
    step_.emplace(model_, stepping_);
    loader_.emplace(data_, loading_);
    queue_.emplace(plan_ ? plan_->ceiling() : 0);
  }

  Json run() {
    const Stopwatch watch;
    take_step();
    loss_.item<float>();
    const double first_step_seconds = watch.seconds();
    const double startup_seconds = since_start_.seconds() - model_seconds_;
    for (int i = 1; i < options_.warmup; ++i) {
      take_step();
    }
    queue_->flush();
    mx::eval(loss_, norm_, state_.count);
    mx::reset_peak_memory();
    tokens_ = padded_ = 0;
    const Stopwatch timed;
    for (int i = 0; i < options_.steps; ++i) {
      take_step();
    }
    queue_->flush();
    mx::eval(loss_, norm_, state_.trainable.arrays()[0]);
    auto result = figures(timed.seconds());
    result["first_step_ms"] = 1e3 * first_step_seconds;
    result["startup_s"] = startup_seconds; // to the end of the first step, without what making the weights took
    if (!options_.profile.empty()) {
      result["profile"] = profile(result["step_ms"]);
    }
    return result;
  }

 private:
  void plan() {
    mx::eval(state_.trainable.arrays());
    mx::eval(state_.optimizer.arrays());
    if (options_.memory_limit > 0) {
      plan_ = plan_for_limit({model_, stepping_, state_, *data_, loading_}, options_.memory_limit);
      stepping_.checkpoint = plan_->checkpoint;
      loading_.micro_batch_tokens = plan_->micro_batch_tokens;
      log::info(plan_->sentence());
    }
  }

  void take_step() {
    const auto batch = loader_->next();
    tokens_ += batch.num_tokens;
    padded_ += num_padded_tokens(batch);
    const auto parts = split_batch(batch, loading_);
    const float weight = 1.0F / static_cast<float>(batch.num_supervised);
    if (options_.memory_limit_gb == 0) {
      queue_->begin_step(num_padded_tokens(parts.front()));
    }
    const auto sum = sum_gradients(*step_, state_, *queue_, parts, weight);
    const auto outcome = step_->update(state_, state_.accumulator, 1e-5);
    state_.accumulator.clear();
    auto outputs = outcome.arrays;
    outputs.push_back(sum.loss);
    queue_->push(sum.midway, std::move(outputs));
    queue_->end_step();
    loss_.item<float>(); // the step before: one step runs ahead, as in training
    loss_ = sum.loss;
    norm_ = outcome.grad_norm;
  }

  Json figures(double seconds) {
    const double tokens = static_cast<double>(tokens_) / options_.steps;
    const double flops = step_flops(model_.spec, tokens, tokens / options_.rows);
    Json result{
        {"shape", options_.shape},
        {"lengths", options_.lengths},
        {"rows", options_.rows},
        {"width", options_.width},
        {"rank", options_.rank},
        {"dtype", dtype_name(model_.dtype)},
        {"quantize", options_.quantize},
        {"device", device_name()},
        {"packing", options_.packing},
        {"grad_checkpoint", options_.grad_checkpoint},
        {"checkpoints_on_host_gb",
         stepping_.host_store ? gigabytes(static_cast<double>(stepping_.host_store->num_bytes())) : 0.0},
        {"memory_plan", plan_ ? plan_->to_json() : Json(nullptr)},
        {"attention", options_.attention},
        {"steps", options_.steps},
        {"tokens_per_second", static_cast<double>(tokens_) / seconds},
        {"padded_tokens_per_second", static_cast<double>(padded_) / seconds},
        {"step_ms", 1e3 * seconds / options_.steps},
        {"peak_memory_gb", memory_use().peak_gb},
        {"loss", loss_.item<float>()},
        {"grad_norm", norm_.item<float>()}};
    result["mfu"] = options_.peak_tflops > 0
                        ? Json(flops * options_.steps / seconds / (options_.peak_tflops * 1e12))
                        : nullptr;
    return result;
  }

  // One more step, operation by operation, beside the time of one that ran at once.
  Json profile(double step_ms) {
    const auto found = profile_step(model_, *step_, state_, split_batch(loader_->next(), loading_).front());
    auto trace = found.chrome_trace();
    trace["temper"]["step_ms"] = step_ms;
    write_file_atomic(options_.profile, trace.dump());
    std::fputs(found.table().c_str(), stderr);
    std::fputs(fmt::format("a step at once {:.2f} ms; its operations one by one {:.2f} ms: {}\n", step_ms,
                           1e3 * found.seconds(), options_.profile)
                   .c_str(),
               stderr);
    return trace["temper"];
  }

  const BenchOptions& options_;
  Stopwatch since_start_;
  Model model_;
  double model_seconds_;
  std::shared_ptr<const TokenDataset> data_;
  LoaderOptions loading_;
  StepOptions stepping_;
  TrainState state_;
  std::optional<MemoryPlan> plan_;
  std::optional<TrainStep> step_;
  std::optional<BatchLoader> loader_;
  std::optional<StepQueue> queue_;
  std::int64_t tokens_ = 0;
  std::int64_t padded_ = 0;
  mx::array loss_ = mx::array(0.0F);
  mx::array norm_ = mx::array(0.0F);
};

Json run_step_bench(const BenchOptions& options) {
  prepare_training_device();
  if (options.memory_limit_gb > 0) {
    mx::set_memory_limit(static_cast<std::size_t>(1e9 * options.memory_limit_gb));
  }
  return StepBench(options).run();
}

std::vector<std::string> with_none(std::vector<std::string> names) {
  names.insert(names.begin(), "none");
  return names;
}

} // namespace

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
  args.add("checkpoints_on_host", &options.checkpoints_on_host,
           "what recomputed blocks keep waits in the host's memory");
  args.add("memory_limit", &options.memory_limit, "GB to fit the step in, as in training; 0: no plan")
      .at_least(0);
  args.add("micro_batch_tokens", &options.micro_batch_tokens,
           "tokens that are computed at once: a step of more runs in parts; 0: as in training")
      .at_least(0);
  args.add("profile", &options.profile,
           "one step more, operation by operation: a table, and a trace for chrome://tracing or Perfetto here")
      .metavar("FILE");
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

} // namespace temper::cli
