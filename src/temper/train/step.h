// One training step, the whole of it: loss and gradient of a batch, then the update. Two compiled functions
// with nothing hidden between them, so that callbacks, accumulation and ranks have their place there.
// Dims: B rows, T row width, E hidden_size, V vocab_size, S supervised positions.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "temper/infer/batch_input.h"
#include "temper/io/model_folder.h"
#include "temper/optim/optimizer.h"
#include "temper/train/param_pack.h"
#include "temper/train/state.h"

namespace temper {

// hidden [B * T, E] -> scalar; weights_S carry the division by the global token count.
using LossFunction =
    std::function<mx::array(const mx::array& hidden_NE, const Head& head, const LossTargets& targets)>;

struct StepOptions {
  LoraConfig lora;
  Optimizer optimizer;
  double max_grad_norm = 1.0;                 // 0: no clipping
  double neftune_alpha = 0.0;                 // noise on the embeddings; 0: none
  Checkpointing checkpoint{};                 // recompute blocks in the backward pass
  std::shared_ptr<HostStore> host_store{};    // recomputed blocks' inputs wait there; none: on the device
  bool scale_loss = false;                    // dynamic loss scaling, for fp16
  int loss_chunk = 0;                         // rows of logits alive at once; 0: from the vocabulary
  std::optional<PackedAttention> attention{}; // none: the fastest for the model and device
  AttentionKernel attention_kernel = AttentionKernel::automatic;
  LossFunction loss;  // none: chunked_cross_entropy
  bool plain = false; // the blocks' plain twins: MLX's own gradients of plain operations, for comparison
};

struct LossAndGradients {
  mx::array loss;                        // fp32 scalar: this micro-batch's part of the step's mean loss
  PackedParams gradients;                // fp32, by the trainable parameters' names
  std::optional<mx::array> load_balance; // of layers of experts (nn/moe.h): fp32 scalar, 1 is balanced
  // On a GPU what the middle of the forward pass makes, for StepQueue; lets go of it early.
  std::optional<mx::array> midway{};
};

// What a step did; arrays are read when somebody asks, a step later.
struct StepOutcome {
  mx::array grad_norm; // fp32 scalar, before clipping
  mx::array applied;   // bool scalar: false when something was not finite and nothing changed
  mx::array finite;    // bool [trainable parameters, in name order]: whose gradient was finite
  // All that the update makes, to be evaluated: of the state's parameters and moments few arrays that they are
  // views of.
  std::vector<mx::array> arrays;
};

class TrainStep {
 public:
  // `model` must outlive the step. Trainable parameters shadow the model's by name.
  TrainStep(const Model& model, StepOptions options);

  // Before the first step: which blocks to recompute.
  void recompute(Checkpointing blocks) {
    options_.checkpoint = blocks;
  }

  // A fresh state around `trainable` (fp32). Lazy.
  TrainState initial_state(Params trainable, std::uint64_t seed) const;

  // Loss and gradients of one micro-batch; each supervised token weighs `weight` (1 / the step's count).
  // Dropout keys derive from (state.seed, state.micro_step). Lazy.
  LossAndGradients gradients(const TrainState& state, const HostBatch& batch, float weight);

  // Clips, updates, and replaces state's device part; increments nothing on the host. A step with a
  // non-finite gradient leaves parameters and moments as they were. Lazy.
  StepOutcome update(TrainState& state, const PackedParams& gradients, double learning_rate);

 private:
  using Compiled = std::function<std::vector<mx::array>(const std::vector<mx::array>&)>;
  class Reader;

  // The optimizer's state of a pack: its kind ("m."), of which pack.
  using Slot = std::pair<std::string, std::size_t>;

  void prepare(const TrainState& state);
  Params traced_parameters(Reader& reader) const;
  std::vector<mx::array> traced_gradients(const BatchArrays& layout,
                                          const std::vector<mx::array>& inputs) const;
  std::vector<mx::array> traced_update(const std::vector<mx::array>& inputs) const;

  const Model& model_;
  StepOptions options_;
  Params frozen_;
  // Known from the first state on: how trained parameters, their moments and gradients lie in few arrays.
  std::shared_ptr<const ParamPack> packs_;
  std::vector<Slot> slots_;
  std::shared_ptr<const std::set<std::string>> trained_;
  std::map<std::string, Compiled> gradient_functions_; // by batch shape
  Compiled update_function_;
};

} // namespace temper
