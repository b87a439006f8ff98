// The training step reads top to bottom: gradients(), its traced body, update(), its traced body.
#include "temper/train/step.h"

#include <algorithm>
#include <cmath>

#include "temper/models/adapter_params.h"
#include "temper/nn/random.h"

namespace temper {
namespace {

constexpr float kFirstLossScale = 65536.0F; // Micikevicius et al. 2017, arXiv:1710.03740, section 3.2
constexpr int kGrowthSteps = 2000;          // finite steps after which the loss scale doubles
constexpr std::int64_t kLogitsBudget = std::int64_t{1} << 27; // bytes of fp32 logits alive at once

// Consecutive runs of `arrays`, handed out in order.
class Reader {
 public:
  explicit Reader(const std::vector<mx::array>& arrays) : arrays_(arrays) {
  }
  Params params(const Params& names) {
    auto result = with_values(names, arrays_, at_);
    at_ += names.size();
    return result;
  }
  mx::array one() {
    return arrays_.at(at_++);
  }
  std::size_t position() const {
    return at_;
  }

 private:
  const std::vector<mx::array>& arrays_;
  std::size_t at_ = 0;
};

void append(std::vector<mx::array>& arrays, const Params& params) {
  for (const auto& [name, array] : params) {
    arrays.push_back(array);
  }
}

// `fresh` where `ok`, else `old`: how a non-finite step changes nothing.
Params select(const mx::array& ok, const Params& fresh, const Params& old) {
  Params result;
  for (const auto& [name, array] : fresh) {
    result.emplace_hint(result.end(), name, mx::where(ok, array, old.at(name)));
  }
  return result;
}

int default_loss_chunk(int vocab_size) {
  const auto rows = kLogitsBudget / (std::int64_t{4} * vocab_size);
  return static_cast<int>(std::clamp<std::int64_t>(rows, 128, 4096));
}

} // namespace

TrainStep::TrainStep(const Model& model, StepOptions options) : model_(model), options_(std::move(options)) {
  const int chunk = options_.loss_chunk > 0 ? options_.loss_chunk : default_loss_chunk(model.spec.vocab_size);
  if (!options_.loss) {
    options_.loss = [chunk](const mx::array& hidden, const Head& head, const LossTargets& targets) {
      return chunked_cross_entropy(hidden, head, targets, chunk);
    };
  }
}

TrainState TrainStep::initial_state(Params trainable, std::uint64_t seed) const {
  TrainState state;
  state.optimizer = options_.optimizer.initial_state(trainable);
  state.trainable = std::move(trainable);
  state.loss_scale = mx::array(options_.scale_loss ? kFirstLossScale : 1.0F);
  state.seed = seed;
  return state;
}

LossAndGradients TrainStep::gradients(const TrainState& state, const HostBatch& batch, float weight) {
  if (frozen_.empty()) {
    frozen_ = model_.params;
    std::erase_if(frozen_, [&](const auto& entry) { return state.trainable.contains(entry.first); });
  }
  // The host kernels would go before the blocks.
  const auto packed = options_.attention_kernel == AttentionKernel::blocked
                          ? PackedAttention::dense_mask
                          : default_packed_attention(model_.spec, model_.dtype);
  const auto layout =
      to_arrays(batch, model_.spec, weight, options_.attention.value_or(packed), options_.neftune_alpha > 0);
  auto& compiled = gradient_functions_[layout.shape_key()];
  if (!compiled) {
    auto description = layout;
    description.arrays.clear();
    compiled = mx::compile([this, names = state.trainable, description](const std::vector<mx::array>& inputs) {
      return traced_gradients(names, description, inputs);
    });
  }
  std::vector<mx::array> inputs;
  append(inputs, state.trainable);
  append(inputs, frozen_);
  inputs.push_back(named_key(state.seed, "step " + std::to_string(state.micro_step)));
  inputs.push_back(state.loss_scale);
  inputs.insert(inputs.end(), layout.arrays.begin(), layout.arrays.end());

  const auto outputs = compiled(inputs);
  const auto extra = 1 + state.trainable.size();
  return {outputs[0], with_values(state.trainable, outputs, 1),
          outputs.size() > extra ? std::optional(outputs[extra]) : std::nullopt};
}

// inputs: trainable, frozen, dropout key, loss scale, batch -> loss, gradients[, load balance].
std::vector<mx::array> TrainStep::traced_gradients(const Params& names, const BatchArrays& layout,
                                                   const std::vector<mx::array>& inputs) const {
  Reader reader(inputs);
  const auto trainable = reader.params(names);
  const auto frozen = reader.params(frozen_);
  const auto key = reader.one();
  const auto loss_scale = reader.one();
  auto batch = as_device_batch(layout, inputs, reader.position());
  batch.input.checkpoint = options_.checkpoint;
  batch.input.attention.kernel = options_.attention_kernel;
  batch.targets.weights_S = batch.targets.weights_S * loss_scale;

  const auto loss_of = [&](const std::vector<mx::array>& values) {
    // fp32 masters compute in the model's dtype; the gradient comes back to them in fp32.
    const auto weights = forward_params(with_values(names, values), model_.dtype);
    ForwardContext context{ParamView(frozen, &weights), options_.lora, key};
    context.neftune_alpha = static_cast<float>(options_.neftune_alpha);
    const auto out = decoder_output(model_.spec, context, batch.input);
    const auto head = decoder_head(model_.spec, context, names.contains(head_weight_name(model_.spec)));
    std::vector<mx::array> results{options_.loss(mx::flatten(out.hidden_BTE, 0, 1), head, batch.targets)};
    if (out.load_balance) {
      results.push_back(*out.load_balance);
    }
    return results;
  };
  std::vector<int> all(names.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    all[i] = static_cast<int>(i);
  }
  auto [loss, gradients] = mx::value_and_grad(loss_of, all)(values(trainable));

  std::vector<mx::array> outputs{loss[0] / loss_scale};
  // A loss that is not finite makes every gradient so: the step is skipped whatever they are.
  const auto divisor = mx::where(mx::isfinite(loss[0]), loss_scale, mx::array(std::nanf("")));
  for (const auto& gradient : gradients) {
    outputs.push_back(gradient / divisor);
  }
  if (loss.size() > 1) {
    outputs.push_back(loss[1]);
  }
  return outputs;
}

StepOutcome TrainStep::update(TrainState& state, const Params& gradients, double learning_rate) {
  if (!update_function_) {
    TrainState names;
    names.trainable = state.trainable;
    names.optimizer = state.optimizer;
    update_function_ = mx::compile(
        [this, names](const std::vector<mx::array>& inputs) { return traced_update(names, inputs); });
  }
  std::vector<mx::array> inputs;
  append(inputs, state.trainable);
  append(inputs, state.optimizer);
  append(inputs, gradients);
  inputs.insert(inputs.end(), {state.count, state.loss_scale, state.good_steps,
                               mx::array(static_cast<float>(learning_rate))});

  const auto outputs = update_function_(inputs);
  Reader reader(outputs);
  state.trainable = reader.params(state.trainable);
  state.optimizer = reader.params(state.optimizer);
  state.count = reader.one();
  state.loss_scale = reader.one();
  state.good_steps = reader.one();
  const auto grad_norm = reader.one();
  const auto applied = reader.one();
  return {grad_norm, applied, reader.one()};
}

// inputs: trainable, optimizer, gradients, count, loss scale, good steps, learning rate
// -> trainable, optimizer, count, loss scale, good steps, gradient norm, applied, finite.
std::vector<mx::array> TrainStep::traced_update(const TrainState& names,
                                                const std::vector<mx::array>& inputs) const {
  Reader reader(inputs);
  const auto trainable = reader.params(names.trainable);
  const auto moments = reader.params(names.optimizer);
  const auto gradients = reader.params(names.trainable);
  const auto count = reader.one();
  const auto loss_scale = reader.one();
  const auto good_steps = reader.one();
  const auto learning_rate = reader.one();

  const auto norm = global_norm(gradients);
  const auto applied = mx::isfinite(norm);
  const auto clipped =
      options_.max_grad_norm > 0 ? clip_gradients(gradients, norm, options_.max_grad_norm) : gradients;
  const auto [new_trainable, new_moments] =
      options_.optimizer.step(trainable, clipped, moments, learning_rate, count);

  std::vector<mx::array> outputs;
  append(outputs, select(applied, new_trainable, trainable));
  append(outputs, select(applied, new_moments, moments));
  outputs.push_back(count + mx::astype(applied, mx::int32));
  if (options_.scale_loss) {
    const auto streak = mx::where(applied, good_steps + mx::array(1), mx::array(0));
    const auto grow = mx::greater_equal(streak, mx::array(kGrowthSteps));
    const auto grown = mx::where(grow, loss_scale * 2.0F, loss_scale);
    outputs.push_back(mx::where(applied, grown, mx::maximum(loss_scale * 0.5F, mx::array(1.0F))));
    outputs.push_back(mx::where(grow, mx::array(0), streak));
  } else {
    outputs.push_back(loss_scale);
    outputs.push_back(good_steps);
  }
  outputs.push_back(norm);
  outputs.push_back(applied);

  std::vector<mx::array> finite;
  for (const auto& [name, gradient] : gradients) {
    finite.push_back(mx::all(mx::isfinite(gradient)));
  }
  outputs.push_back(mx::stack(finite));
  return outputs;
}

} // namespace temper
