// The one decoder: token ids to hidden states to logits, as a pure function of parameters and batch.
// Dims: B rows, T tokens a row, N selected tokens, E hidden_size, V vocab_size.
#pragma once

#include <limits>
#include <optional>

#include "temper/models/spec.h"
#include "temper/models/tensors.h"
#include "temper/nn/attention.h"
#include "temper/nn/host_store.h"
#include "temper/nn/linear.h"
#include "temper/nn/loss.h"

namespace temper {

// Which blocks keep their inputs alone for the backward pass and run again there: the first so many. Those are
// computed again when the later blocks' activations are gone, so what they make then adds least to the peak.
class Checkpointing {
 public:
  Checkpointing() = default;
  // All blocks, or none.
  Checkpointing(bool all) : blocks_(all ? std::numeric_limits<int>::max() : 0) {
  }
  static Checkpointing first(int blocks) {
    Checkpointing some;
    some.blocks_ = blocks;
    return some;
  }
  bool covers(int layer) const {
    return layer < blocks_;
  }

 private:
  int blocks_ = 0;
};

struct DecoderInput {
  mx::array tokens_BT;                     // int32
  std::optional<mx::array> positions_BT{}; // int32; none: 0 .. T-1 after the cache's offset
  // int32 [B]: the position of each row's first token, where the others follow one by one (padding before it
  // included): a GPU then turns queries and keys by one kernel.
  std::optional<mx::array> offsets_B{};
  std::optional<mx::array> lengths_BT{}; // int32, each token's document length (rope.h); none: the row's end
  std::optional<mx::array> real_BT{};    // bool: tokens that the load balance counts; none: all
  AttentionPlan attention{};
  HostStore* host_store = nullptr; // where recomputed blocks' inputs wait for that; none: on the device
  Checkpointing checkpoint{};      // recompute blocks in the backward pass instead of keeping their activations
};

struct DecoderOutput {
  mx::array hidden_BTE;                  // after the final norm
  std::optional<mx::array> load_balance; // mean over the layers of experts (nn/moe.h), a fp32 scalar
  mx::array midway_BTE;                  // what enters the block in the middle: to evaluate a pass in two parts
};

// What the model computes in: its norms' dtype.
mx::Dtype compute_dtype(const DecoderSpec& spec, const ParamView& params);

DecoderOutput decoder_output(const DecoderSpec& spec, ForwardContext& context, const DecoderInput& input);

// decoder_output()'s hidden states, [B, T, E], in compute_dtype(). Lazy.
mx::array decoder_hidden(const DecoderSpec& spec, ForwardContext& context, const DecoderInput& input);

// How hidden states become logits: the embedding when tied, with the context's adapter. A gradient in its
// weight is wanted if `trainable`.
Head decoder_head(const DecoderSpec& spec, const ForwardContext& context, bool trainable = false);

// The tensor that the head multiplies with.
std::string head_weight_name(const DecoderSpec& spec);

// hidden [..., E] -> logits [..., V], in hidden's dtype. Lazy.
mx::array decoder_logits(const DecoderSpec& spec, const ForwardContext& context, const mx::array& hidden);

} // namespace temper
