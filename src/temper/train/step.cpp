// The training step reads top to bottom: gradients(), its traced body, update(), its traced body.
#include "temper/train/step.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "temper/models/adapter_params.h"
#include "temper/nn/random.h"

namespace temper {
namespace {

constexpr float kFirstLossScale = 65536.0F; // Micikevicius et al. 2017, arXiv:1710.03740, section 3.2
constexpr int kGrowthSteps = 2000;          // finite steps after which the loss scale doubles
// Logits alive at once. On a GPU a chunk of few rows would read the head's matrix too often.
constexpr std::int64_t kLogitsBudgetGpu = std::int64_t{1} << 27;
constexpr int kManyTargets = 4096; // from where on half the rows a chunk cost a GPU no time, and save memory
constexpr std::int64_t kLogitsBudgetCpu = std::int64_t{1} << 25;

} // namespace

// Consecutive runs of `arrays`, handed out in order.
class TrainStep::Reader {
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

 private:
  const std::vector<mx::array>& arrays_;
  std::size_t at_ = 0;
};

namespace {

void append(std::vector<mx::array>& arrays, const Params& params) {
  for (const auto& [name, array] : params) {
    arrays.push_back(array);
  }
}

int default_loss_chunk(int vocab_size) {
  const bool on_gpu = mx::default_device() == mx::Device::gpu;
  const auto rows = (on_gpu ? kLogitsBudgetGpu : kLogitsBudgetCpu) / vocab_size;
  return static_cast<int>(std::clamp<std::int64_t>(on_gpu ? rows / 128 * 128 : rows, 128, 4096));
}

} // namespace

TrainStep::TrainStep(const Model& model, StepOptions options) : model_(model), options_(std::move(options)) {
  const int given = options_.loss_chunk;
  const int usual = default_loss_chunk(model.spec.vocab_size);
  if (!options_.loss) {
    options_.loss = [given, usual](const mx::array& hidden, const Head& head, const LossTargets& targets) {
      const bool halves = mx::default_device() == mx::Device::gpu && targets.targets_S.shape(0) >= kManyTargets;
      const int chunk = halves ? std::max(1, usual / 2) : usual;
      return chunked_cross_entropy(hidden, head, targets, given > 0 ? given : chunk);
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

void TrainStep::prepare(const TrainState& state) {
  if (packs_) {
    return;
  }
  frozen_ = model_.params;
  std::erase_if(frozen_, [&](const auto& entry) { return state.trainable.contains(entry.first); });
  std::set<std::string> names;
  for (const auto& [name, array] : state.trainable) {
    names.insert(name);
  }
  trained_ = std::make_shared<const std::set<std::string>>(std::move(names));
  packs_ =
      std::make_shared<const ParamPack>(state.trainable, [&](const std::string& name, const mx::array& array) {
        const auto kind = options_.optimizer.elementwise_kind(name, array);
        return kind.empty() || !computes_in_fp32(name) ? kind : kind + " fp32";
      });
  std::set<std::string> kinds;
  for (const auto& [name, array] : state.optimizer) {
    kinds.insert(name.substr(0, name.find('.') + 1));
  }
  for (const auto& kind : kinds) {
    for (std::size_t i = 0; i < packs_->size(); ++i) {
      if (state.optimizer.contains(kind + packs_->names(i)[0])) {
        slots_.emplace_back(kind, i);
      }
    }
  }
}

LossAndGradients TrainStep::gradients(const TrainState& state, const HostBatch& batch, float weight) {
  prepare(state);
  // The host kernels would go before the blocks.
  const auto packed = options_.attention_kernel == AttentionKernel::blocked
                          ? PackedAttention::dense_mask
                          : default_packed_attention(model_.spec, model_.dtype);
  const auto layout =
      to_arrays(batch, model_.spec, weight, options_.attention.value_or(packed), options_.neftune_alpha > 0);
  auto& compiled = gradient_functions_[layout.shape_key()];
  if (!compiled) {
    auto description = layout;
    description.words = mx::array(0);
    compiled = mx::compile([this, description](const std::vector<mx::array>& inputs) {
      return traced_gradients(description, inputs);
    });
  }
  std::vector<mx::array> inputs;
  inputs.reserve(packs_->size() + frozen_.size());
  for (std::size_t i = 0; i < packs_->size(); ++i) {
    inputs.push_back(state.trainable.packed(packs_, i));
  }
  append(inputs, frozen_);
  inputs.push_back(named_key(state.seed, "step " + std::to_string(state.micro_step)));
  inputs.push_back(state.loss_scale);
  inputs.push_back(layout.words);

  const auto outputs = compiled(inputs);
  const auto extra = 2 + packs_->size();
  PackedParams gradients;
  for (std::size_t i = 0; i < packs_->size(); ++i) {
    gradients.set(packs_, i, outputs[2 + i]);
  }
  return {outputs[0], std::move(gradients),
          outputs.size() > extra ? std::optional(outputs[extra]) : std::nullopt,
          mx::default_device() == mx::Device::gpu ? std::optional(outputs[1]) : std::nullopt};
}

// The trained parameters as the forward pass takes them: fp32 masters compute in the model's dtype.
Params TrainStep::traced_parameters(Reader& reader) const {
  const auto& pack = *packs_;
  Params parameters;
  for (std::size_t i = 0; i < pack.size(); ++i) {
    const auto& names = pack.names(i);
    const auto parts = pack.split(i, forward_params({{names[0], reader.one()}}, model_.dtype).begin()->second);
    for (std::size_t j = 0; j < names.size(); ++j) {
      parameters.emplace(names[j], parts[j]);
    }
  }
  return parameters;
}

// inputs: trainable, frozen, dropout key, loss scale, batch -> loss, midway, gradients[, load balance].
std::vector<mx::array> TrainStep::traced_gradients(const BatchArrays& layout,
                                                   const std::vector<mx::array>& inputs) const {
  Reader reader(inputs);
  const auto trainable = traced_parameters(reader);
  const auto frozen = reader.params(frozen_);
  const auto key = reader.one();
  const auto loss_scale = reader.one();
  auto batch = as_device_batch(layout, reader.one());
  batch.input.checkpoint = options_.checkpoint;
  batch.input.host_store = options_.host_store.get();
  batch.input.attention.kernel = options_.attention_kernel;
  batch.targets.weights_S = batch.targets.weights_S * loss_scale;

  const auto loss_of = [&](const std::vector<mx::array>& values) {
    const auto weights = with_values(trainable, values);
    ForwardContext context{ParamView(frozen, &weights), options_.lora, key};
    context.neftune_alpha = static_cast<float>(options_.neftune_alpha);
    context.trained = options_.plain ? nullptr : trained_;
    const auto out = decoder_output(model_.spec, context, batch.input);
    const auto head = decoder_head(model_.spec, context, trained_->contains(head_weight_name(model_.spec)));
    std::vector<mx::array> results{options_.loss(mx::flatten(out.hidden_BTE, 0, 1), head, batch.targets),
                                   mx::stop_gradient(out.midway_BTE)};
    if (out.load_balance) {
      results.push_back(*out.load_balance);
    }
    return results;
  };
  std::vector<int> all(trainable.size());
  std::iota(all.begin(), all.end(), 0);
  const auto [loss, found] = mx::value_and_grad(loss_of, all)(values(trainable));
  const auto gradients = with_values(trainable, found);

  std::vector<mx::array> outputs{loss[0] / loss_scale, loss[1]};
  // A loss that is not finite makes every gradient so: the step is skipped whatever they are.
  const auto divisor = mx::where(mx::isfinite(loss[0]), loss_scale, mx::array(std::nanf("")));
  for (std::size_t i = 0; i < packs_->size(); ++i) {
    std::vector<mx::array> parts;
    for (const auto& name : packs_->names(i)) {
      parts.push_back(gradients.at(name));
    }
    outputs.push_back(mx::astype(packs_->join(i, parts), mx::float32) / divisor);
  }
  if (loss.size() > 2) {
    outputs.push_back(loss[2]);
  }
  return outputs;
}

StepOutcome TrainStep::update(TrainState& state, const PackedParams& gradients, double learning_rate) {
  prepare(state);
  if (!update_function_) {
    update_function_ =
        mx::compile([this](const std::vector<mx::array>& inputs) { return traced_update(inputs); });
  }
  const auto count = packs_->size();
  std::vector<mx::array> inputs;
  inputs.reserve(count + slots_.size());
  for (std::size_t i = 0; i < count; ++i) {
    inputs.push_back(state.trainable.packed(packs_, i));
  }
  for (const auto& [kind, i] : slots_) {
    inputs.push_back(state.optimizer.packed(packs_, i, kind));
  }
  for (std::size_t i = 0; i < count; ++i) {
    inputs.push_back(gradients.packed(packs_, i));
  }
  inputs.insert(inputs.end(), {state.count, state.loss_scale, state.good_steps,
                               mx::array(static_cast<float>(learning_rate))});

  const auto outputs = update_function_(inputs);
  std::size_t at = 0;
  for (std::size_t i = 0; i < count; ++i) {
    state.trainable.set(packs_, i, outputs.at(at++));
  }
  for (const auto& [kind, i] : slots_) {
    state.optimizer.set(packs_, i, outputs.at(at++), kind);
  }
  state.count = outputs.at(at++);
  state.loss_scale = outputs.at(at++);
  state.good_steps = outputs.at(at++);
  return {outputs.at(at), outputs.at(at + 1), outputs.at(at + 2), outputs};
}

// inputs: trainable, the optimizer's slots, gradients, count, loss scale, good steps, learning rate
// -> trainable, slots, count, loss scale, good steps, gradient norm, applied, finite.
std::vector<mx::array> TrainStep::traced_update(const std::vector<mx::array>& inputs) const {
  Reader reader(inputs);
  // A pack's first parameter stands for all of it.
  const auto name_of = [&](std::size_t pack) { return packs_->names(pack)[0]; };
  Params trainable;
  Params moments;
  Params gradients;
  for (std::size_t i = 0; i < packs_->size(); ++i) {
    trainable.emplace(name_of(i), reader.one());
  }
  for (const auto& [kind, i] : slots_) {
    moments.emplace(kind + name_of(i), reader.one());
  }
  for (std::size_t i = 0; i < packs_->size(); ++i) {
    gradients.emplace(name_of(i), reader.one());
  }
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
  outputs.reserve(packs_->size() + slots_.size());
  // A step that is not finite changes nothing.
  for (std::size_t i = 0; i < packs_->size(); ++i) {
    outputs.push_back(mx::where(applied, new_trainable.at(name_of(i)), trainable.at(name_of(i))));
  }
  for (const auto& [kind, i] : slots_) {
    const auto name = kind + name_of(i);
    outputs.push_back(mx::where(applied, new_moments.at(name), moments.at(name)));
  }
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
  finite.reserve(packs_->size());
  for (std::size_t i = 0; i < packs_->size(); ++i) {
    finite.push_back(mx::isfinite(gradients.at(name_of(i))));
  }
  outputs.push_back(packs_->all_set(finite));
  return outputs;
}

} // namespace temper
