// What the tests of training share: a tiny model, uneven examples, and a trainer around them.
#pragma once

#include <doctest/doctest.h>

#include <memory>
#include <string>
#include <vector>

#include "io/tiny_model.h"
#include "temper/models/adapter_params.h"
#include "temper/train/trainer.h"

namespace temper::test {

constexpr std::int32_t kVocab = 300;

// Examples of 3 to 30 tokens, the first third of each a prompt.
inline std::vector<Example> uneven_examples(int count) {
  std::vector<Example> all;
  std::uint32_t noise = 17;
  for (int i = 0; i < count; ++i) {
    Example example;
    const int length = 3 + (i * 11) % 28;
    for (int t = 0; t < length; ++t) {
      noise = noise * 1664525U + 1013904223U;
      example.tokens.push_back(static_cast<std::int32_t>((noise >> 16) % kVocab));
      example.supervised.push_back(t >= length / 3 ? 1 : 0);
    }
    all.push_back(example);
  }
  return all;
}

inline LoaderOptions loader_options(int batch_size, bool packing = true) {
  LoaderOptions options;
  options.batch_size = batch_size;
  options.max_seq_length = 64;
  options.packing = packing;
  options.width_multiple = 16;
  options.prefetch = 0;
  options.seed = 5;
  return options;
}

inline HostBatch batch_of(const std::vector<Example>& examples, bool packing) {
  auto options = loader_options(static_cast<int>(examples.size()), packing);
  options.shuffle = false;
  return BatchLoader(make_token_dataset(examples), options).next();
}

// How packed rows may be computed; the host kernels run on a CPU alone.
inline std::vector<PackedAttention> attentions() {
  std::vector<PackedAttention> all{PackedAttention::documents, PackedAttention::dense_mask};
  if (mx::default_device() == mx::Device::cpu) {
    all.push_back(PackedAttention::host);
  }
  return all;
}

inline StepOptions step_options(const std::string& optimizer = "adam", float dropout = 0.0F) {
  StepOptions options;
  options.lora = {.rank = 4, .scale = 2.0F, .dropout = dropout};
  options.optimizer = make_optimizer(optimizer, {});
  options.attention = PackedAttention::documents;
  return options;
}

// The losses of LoRA's first steps on one batch, over and over.
inline std::vector<float> lora_losses(const Model& model, const HostBatch& batch, int steps) {
  TrainStep step(model, step_options());
  auto state = step.initial_state(init_adapter({.rank = 4}, adaptable_layers(model.spec, -1, {}), 1), 1);
  std::vector<float> losses;
  for (int i = 0; i < steps; ++i) {
    auto found = step.gradients(state, batch, 1.0F / static_cast<float>(batch.num_supervised));
    auto outcome = step.update(state, found.gradients, 1e-2);
    REQUIRE(outcome.applied.item<bool>());
    losses.push_back(found.loss.item<float>());
  }
  return losses;
}

// Factors of the linears that `keys` name (none: all), B not zero, so that every gradient is alive.
inline Params lora_factors(const Model& model, const std::vector<std::string>& keys = {}) {
  auto factors = init_adapter({.rank = 4}, adaptable_layers(model.spec, -1, keys), 1);
  for (auto& [name, array] : factors) {
    array = array + 0.1F * randn(array.shape(), name);
  }
  mx::eval(values(factors));
  return factors;
}

// fp32 masters of all the model's weights.
inline Params masters(const Model& model) {
  Params params;
  for (const auto& [name, array] : model.params) {
    params.emplace(name, mx::astype(array, mx::float32));
  }
  return params;
}

inline Model cast_model(Model model, mx::Dtype dtype) {
  model.dtype = dtype;
  for (auto& [name, array] : model.params) {
    array = mx::astype(array, dtype);
  }
  mx::eval(values(model.params));
  return model;
}

// Keeps what the trainer tells.
class Recorder final : public Callback, public EventSink {
 public:
  std::vector<StepResult> steps;
  std::vector<Event> events;

  void after_step(Trainer&, const StepResult& result) override {
    steps.push_back(result);
  }
  void on_event(const Event& event) override {
    events.push_back(event);
  }
  std::vector<double> losses() const {
    std::vector<double> all;
    for (const auto& step : steps) {
      all.push_back(step.loss);
    }
    return all;
  }
  // Of events of this type, in order.
  std::vector<Json> of(const std::string& type) const {
    std::vector<Json> found;
    for (const auto& event : events) {
      if (event.type == type) {
        found.push_back(event.to_json());
      }
    }
    return found;
  }
};

struct Setting {
  Model model = tiny_model();
  StepOptions step = step_options();
  bool full = false;
  std::vector<std::string> keys{}; // of the layers that LoRA adapts; none: all
  TrainerOptions trainer{};
  std::vector<Example> examples = uneven_examples(24);

  explicit Setting(std::int64_t steps, int batch_size = 4) {
    trainer.total_steps = steps;
    trainer.schedule = [](std::int64_t) { return 1e-2; };
    trainer.loader = loader_options(batch_size);
  }
};

// A trainer with everything that it needs, and a record of it.
class Training {
 public:
  explicit Training(Setting setting)
      : setting_(std::move(setting)),
        step_(setting_.model, setting_.step),
        recorder_(std::make_shared<Recorder>()) {
    reset(initial_state());
  }

  TrainState initial_state() {
    return step_.initial_state(
        setting_.full ? masters(setting_.model) : lora_factors(setting_.model, setting_.keys), 9);
  }
  // A new trainer, from `state`.
  void reset(TrainState state) {
    trainer_ = std::make_unique<Trainer>(step_, std::move(state), make_token_dataset(setting_.examples),
                                         setting_.trainer);
    trainer_->add_callback(recorder_);
    trainer_->add_sink(recorder_.get());
  }
  Training& run() {
    trainer_->run();
    return *this;
  }

  Trainer& trainer() {
    return *trainer_;
  }
  TrainState& state() {
    return trainer_->state();
  }
  const Recorder& record() const {
    return *recorder_;
  }

 private:
  Setting setting_;
  TrainStep step_;
  std::shared_ptr<Recorder> recorder_;
  std::unique_ptr<Trainer> trainer_;
};

} // namespace temper::test
