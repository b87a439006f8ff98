#include "temper/train/memory_plan.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include <fmt/format.h>

#include "temper/base/error.h"
#include "temper/base/log.h"
#include "temper/base/units.h"
#include "temper/data/collate.h"
#include "temper/data/split_batch.h"
#include "temper/models/tensors.h"
#include "temper/nn/device.h"
#include "temper/nn/graph_memory.h"

namespace temper {
namespace {

// Tokens that keep the device busy: smaller micro-batches cost more time than recomputing does.
constexpr std::int64_t kBusyTokensGpu = 4096;
constexpr std::int64_t kBusyTokensCpu = 512;
// A device's own memory is planned for where a rough sum exceeds this share of it.
constexpr double kPlenty = 0.5;
// Of a batch's own arrays (infer/batch_input.h), at most nine words a token: this one's and the next one's.
constexpr std::int64_t kBatchBytesPerToken = std::int64_t{2} * 9 * 4;

std::int64_t busy_tokens() {
  return mx::default_device() == mx::Device::gpu ? kBusyTokensGpu : kBusyTokensCpu;
}

// The largest step that the data can make: its longest examples, every token supervised.
HostBatch largest_batch(const TokenDataset& data, const LoaderOptions& loader) {
  std::vector<std::uint32_t> order(data.size());
  std::iota(order.begin(), order.end(), 0U);
  const auto budget = static_cast<std::size_t>(loader.batch_tokens);
  const auto most =
      std::min(order.size(), budget > 0 ? order.size() : static_cast<std::size_t>(loader.batch_size));
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(most), order.end(),
                    [&](auto a, auto b) { return data.length(a) > data.length(b); });
  std::size_t count = 0;
  for (std::size_t tokens = 0; count < most; ++count) {
    tokens += data.length(order[count]);
    if (budget > 0 && count > 0 && tokens > budget) {
      break;
    }
  }
  order.resize(count);
  auto batch = loader.compat_mlx_lm ? collate_mlx_lm(data, order, loader) : collate(data, order, loader);
  for (std::size_t i = 0; i < batch.supervised.size(); ++i) {
    batch.supervised[i] = batch.segments[i] >= 0 ? 1 : 0;
  }
  batch.num_supervised = std::accumulate(batch.supervised.begin(), batch.supervised.end(), std::int64_t{0});
  return batch;
}

// By sums, not by MLX's counter: a run that resumes is planned as it was.
std::int64_t bytes_in_use(const PlannedRun& run) {
  return num_bytes(run.model.params) + num_bytes(run.state.trainable) + num_bytes(run.state.optimizer) +
         num_bytes(run.state.start);
}

class Planner {
 public:
  Planner(const PlannedRun& run, std::int64_t budget)
      : run_(run),
        budget_(budget),
        in_use_(bytes_in_use(run)),
        batch_(largest_batch(run.data, run.loader)),
        num_blocks_(run.model.spec.num_layers),
        fewest_(run.step.checkpoint.covers(num_blocks_ - 1) ? num_blocks_ : 0) {
    std::optional<int> first;
    for (const auto& [name, array] : run.state.trainable) {
      const auto block =
          block_of(run.model.spec, name).value_or(name.find("embed") != std::string::npos ? 0 : num_blocks_);
      first = std::min(first.value_or(block), block);
    }
    first_block_ = std::min(first.value_or(0), num_blocks_);
  }

  MemoryPlan find() {
    auto plan = estimate(fewest_, 1);
    int parts = 1;
    while (!plan.fits() && can_split(plan) && num_columns(batch_) / (parts + 1) >= busy_tokens()) {
      ++parts;
      plan = estimate(fewest_, parts);
    }
    if (plan.fits()) {
      return plan;
    }
    plan = estimate(num_blocks_, parts);
    while (!plan.fits() && can_split(plan)) {
      parts = std::max(parts + 1, parts * 5 / 4);
      plan = estimate(num_blocks_, parts);
    }
    return plan.fits() ? with_fewest_blocks(plan, parts) : plan;
  }

 private:
  bool can_split(const MemoryPlan& plan) const {
    return !run_.loader.compat_mlx_lm && plan.num_micro_batches < static_cast<int>(batch_.documents.size());
  }

  // The plan of as few recomputed blocks as fit, `all` being one that does.
  MemoryPlan with_fewest_blocks(MemoryPlan all, int parts) {
    int too_few = std::max(fewest_ - 1, first_block_);
    int enough = num_blocks_;
    while (enough - too_few > 1) {
      const int middle = (too_few + enough) / 2;
      const auto plan = estimate(middle, parts);
      if (plan.fits()) {
        all = plan;
        enough = middle;
      } else {
        too_few = middle;
      }
    }
    return all;
  }

  // What the step takes with blocks below `recomputed` recomputed, in about `parts` parts.
  MemoryPlan estimate(int recomputed, int parts) {
    auto loader = run_.loader;
    const auto own = loader.micro_batch_tokens > 0 ? loader.micro_batch_tokens : num_columns(batch_);
    loader.micro_batch_tokens = std::min(own, (num_columns(batch_) + parts - 1) / parts);
    const auto batches = split_batch(batch_, loader);
    const auto& largest = *std::ranges::max_element(batches, {}, num_columns);

    MemoryPlan plan;
    plan.num_blocks = num_blocks_;
    plan.num_recomputed = std::max(0, recomputed - first_block_);
    plan.checkpoint = Checkpointing::first(recomputed);
    plan.micro_batch_tokens = num_columns(largest);
    plan.num_micro_batches = static_cast<int>(batches.size());
    plan.budget_bytes = budget_;

    auto options = run_.step;
    if (options.host_store) {
      options.host_store = std::make_shared<HostStore>(); // nothing is moved: no memory need be pinned
    }
    options.checkpoint = plan.checkpoint;
    TrainStep step(run_.model, options);
    auto state = run_.state;
    auto part = step.gradients(state, largest, 1.0F / static_cast<float>(largest.num_supervised));
    auto outputs = part.gradients.arrays();
    outputs.push_back(part.loss);
    const auto gradients = graph_memory(outputs);
    const auto outcome = step.update(state, part.gradients, 1e-4);
    part.gradients.clear();
    outputs = state.trainable.arrays();
    const auto moments = state.optimizer.arrays();
    outputs.insert(outputs.end(), moments.begin(), moments.end());
    outputs.insert(outputs.end(), {part.loss, outcome.grad_norm});
    auto replaced = values(run_.state.trainable);
    const auto old_moments = values(run_.state.optimizer);
    replaced.insert(replaced.end(), old_moments.begin(), old_moments.end());
    const auto whole = graph_memory(outputs, replaced);

    plan.headroom_bytes = std::max(gradients.largest, whole.largest);
    plan.peak_bytes = whole.peak;
    if (batches.size() * static_cast<std::size_t>(run_.grad_accumulation_steps) > 1) {
      plan.peak_bytes = std::max(plan.peak_bytes, gradients.peak + gradients.left); // the sums so far
    }
    plan.peak_bytes += in_use_ + plan.headroom_bytes + kBatchBytesPerToken * plan.micro_batch_tokens;
    return plan;
  }

  const PlannedRun& run_;
  std::int64_t budget_;
  std::int64_t in_use_;
  HostBatch batch_;
  int num_blocks_;
  int fewest_;          // blocks recomputed anyway
  int first_block_ = 0; // that trains
};

// More than a step keeps of its activations, by the sizes of a block's arrays.
double rough_bytes(const PlannedRun& run) {
  const auto& spec = run.model.spec;
  const auto batch = largest_batch(run.data, run.loader);
  double widths = 8.0 * spec.hidden_size;
  for (const auto& layer : matrix_layers(spec)) {
    widths += 2.0 * layer.out_features / std::max(1, spec.num_layers);
  }
  return static_cast<double>(bytes_in_use(run)) +
         static_cast<double>(num_columns(batch)) * widths * spec.num_layers * 4.0;
}

std::string in_gb(double bytes) {
  return fmt::format("{:.3g}", gigabytes(bytes));
}

std::string too_little(const MemoryPlan& plan, const PlannedRun& run) {
  const auto weights = static_cast<double>(num_bytes(run.model.params));
  const auto trained = static_cast<double>(num_bytes(run.state.trainable) + num_bytes(run.state.optimizer));
  const bool is_adapter = std::ranges::any_of(
      run.state.trainable, [](const auto& entry) { return entry.first.ends_with(".lora_a"); });
  return fmt::format(
      "this run needs at least {} GB: {} for the weights, {} for what it trains and the optimizer's state, the "
      "rest "
      "for {} tokens at a time with {} of {} blocks recomputed; raise memory_limit, or lower "
      "max_seq_length{}{} or "
      "num_layers, or use {}",
      in_gb(static_cast<double>(plan.peak_bytes)), in_gb(weights), in_gb(trained), plan.micro_batch_tokens,
      plan.num_recomputed, plan.num_blocks, run.loader.compat_mlx_lm ? ", batch_size" : "",
      is_adapter ? ", lora_parameters.rank" : "",
      is_adapter ? "a model in fewer bits (temper convert --quantize)" : "fine_tune_type lora");
}

} // namespace

std::string MemoryPlan::sentence() const {
  std::string chosen = num_recomputed == 0
                           ? "no block recomputed"
                           : fmt::format("{} of {} blocks recomputed", num_recomputed, num_blocks);
  if (num_micro_batches > 1) {
    chosen += fmt::format(", a step in up to {} micro-batches of at most {} tokens", num_micro_batches,
                          micro_batch_tokens);
  }
  return fmt::format("memory: {}; about {} of {} GB", chosen, in_gb(static_cast<double>(peak_bytes)),
                     in_gb(static_cast<double>(budget_bytes)));
}

Json MemoryPlan::to_json() const {
  return {{"limit_gb", gigabytes(static_cast<double>(budget_bytes))},
          {"planned_peak_gb", gigabytes(static_cast<double>(peak_bytes))},
          {"blocks", num_blocks},
          {"blocks_recomputed", num_recomputed},
          {"micro_batch_tokens", micro_batch_tokens},
          {"micro_batches", num_micro_batches}};
}

MemoryPlan plan_memory(const PlannedRun& run, std::int64_t budget_bytes) {
  return Planner(run, budget_bytes).find();
}

std::optional<MemoryPlan> plan_for_limit(const PlannedRun& run, double limit_gb) {
  const bool is_asked = limit_gb > 0;
  const auto budget = is_asked ? 1e9 * limit_gb : static_cast<double>(device_memory_budget());
  if (budget == 0 || (!is_asked && rough_bytes(run) < kPlenty * budget)) {
    return std::nullopt;
  }
  auto plan = plan_memory(run, static_cast<std::int64_t>(budget));
  if (!plan.fits()) {
    const auto what = too_little(plan, run);
    if (is_asked) {
      throw OutOfMemory(fmt::format("memory_limit {:.6g} GB: {}", limit_gb, what));
    }
    log::warn(fmt::format("the device has {:.1f} GB, and {}", gigabytes(budget), what));
  }
  return plan;
}

} // namespace temper
