#include "temper/train/run_options.h"

#include <algorithm>
#include <cmath>

#include "temper/data/mlx_lm_random.h"
#include "temper/data/split_batch.h"
#include "temper/train/trainable.h"

namespace temper {
namespace {

std::int64_t total_steps(const RunConfig& config, const std::shared_ptr<const TokenDataset>& train,
                         const LoaderOptions& loader) {
  if (!config.epochs) {
    return config.iters;
  }
  auto once = loader;
  once.prefetch = 0;
  const auto batches = static_cast<double>(BatchLoader(train, once).batches_per_epoch());
  return std::max<std::int64_t>(
      1, std::llround(std::ceil(*config.epochs * batches / config.grad_accumulation_steps)));
}

} // namespace

void suit_device(LoaderOptions& options) {
  // CUDA's fused attention backward wants multiples of 128; a CPU pays for every column.
  options.width_multiple = mx::default_device() == mx::Device::cpu ? 32 : 128;
  options.few_shapes = mx::default_device() != mx::Device::cpu;
}

void bound_micro_batches(LoaderOptions& options, const TokenDataset& train) {
  if (options.micro_batch_tokens == 0 && mx::default_device() == mx::Device::gpu) {
    options.micro_batch_tokens = usual_micro_batch_tokens(train, options);
  }
}

LoaderOptions loader_options(const RunConfig& config) {
  LoaderOptions options;
  options.batch_size = config.batch_size;
  options.batch_tokens = config.batch_tokens;
  options.micro_batch_tokens = config.micro_batch_tokens;
  options.max_seq_length = config.max_seq_length;
  options.packing = config.packing;
  options.seed = config.seed;
  suit_device(options);
  if (config.compat == "mlx-lm") {
    options.compat_mlx_lm = true;
    options.mlx_lm_random = std::make_shared<MlxLmRandom>(config.seed);
  }
  return options;
}

TrainerOptions trainer_options(const RunConfig& config, const std::shared_ptr<const TokenDataset>& train) {
  TrainerOptions options;
  options.grad_accumulation_steps = config.grad_accumulation_steps;
  options.compat_mlx_lm = config.compat == "mlx-lm";
  options.loader = loader_options(config);
  bound_micro_batches(options.loader, *train);
  options.total_steps = total_steps(config, train, options.loader);
  // In compat mode the total counts micro-batches; a schedule counts updates.
  const auto shares = options.compat_mlx_lm ? options.grad_accumulation_steps : 1;
  options.schedule = make_schedule(config.lr_schedule, config.learning_rate, config.num_warmup_steps(),
                                   options.total_steps / shares);
  return options;
}

StepOptions step_options(const RunConfig& config, const LoraConfig& lora, mx::Dtype dtype) {
  StepOptions options;
  options.lora = lora;
  options.optimizer = make_optimizer(config.optimizer, config.optimizer_config, method_groups(config));
  options.max_grad_norm = config.max_grad_norm;
  options.checkpoint = config.grad_checkpoint;
  if (config.checkpoints_on_host) {
    options.host_store = HostStore::for_device();
  }
  options.attention_kernel = attention_kernel_named(config.attention);
  options.neftune_alpha = config.neftune_alpha;
  options.scale_loss = dtype == mx::float16;
  return options;
}

} // namespace temper
