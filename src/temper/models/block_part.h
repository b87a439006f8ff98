// What the halves of a block share: their input, its norm, and how they train.
// Dims: B rows, T tokens a row, E hidden_size.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "temper/models/spec.h"
#include "temper/models/tensors.h"
#include "temper/nn/attention.h"
#include "temper/nn/linear.h"

namespace temper {

// What every block of a pass reads.
struct PassInput {
  AttentionPlan attention;
  mx::array positions_BT;       // int32, restarting with each document
  std::vector<RopeTable> ropes; // as DecoderSpec::ropes
  std::optional<mx::array> real_BT{};
  bool recomputed = false; // the block as a whole is, so that its parts need not be
};

// The norm "<name>.weight" of x's last axis. Lazy.
mx::array norm(const DecoderSpec& spec, const ForwardContext& context, const std::string& name,
               const mx::array& x);

// The norm "<prefix><name>.weight" of x; x itself where there is no such norm. Lazy.
mx::array normed(const DecoderSpec& spec, const ForwardContext& context, const std::string& prefix,
                 const std::string& name, const mx::array& x);

// What a half of a block is over: the residual stream, and its norm.
struct Entry {
  mx::array x;
  mx::array normed;
};

// normed(), and x as it goes on beside it: where the GPU's kernel serves, the gradients of both are one. Lazy.
Entry enter(const DecoderSpec& spec, const ForwardContext& context, const std::string& prefix,
            const std::string& name, const mx::array& x);

// What a half of a block adds, and what it is added to.
struct HalfBlock {
  mx::array y;
  mx::array x;
};

// What attention of the layer is, in `dtype`.
AttentionSettings attention_settings(const DecoderSpec& spec, const ForwardContext& context, int layer,
                                     mx::Dtype dtype);

// Over what goes in: the residual stream, or what comes of it.
using BlockPart =
    std::function<std::vector<mx::array>(ForwardContext& context, const std::vector<mx::array>& in)>;

// Which of a block's parameters a part of it reads.
struct PartParameters {
  std::vector<std::string> layers; // linear layers
  std::vector<std::string> others; // what else may train: names of norms and the like, or a folder of names
};

// part(in), partly recomputed where all of its linear layers have lean gradients: what it holds for the
// backward pass is `in` and what it keeps of its first run (recompute.h). The backward pass runs after the
// caller has returned, so the block's parameters go along. Lazy; differentiable in `in` and the parameters
// named.
std::vector<mx::array> part_of_block(ForwardContext& context, const std::string& prefix,
                                     const PartParameters& parameters, const std::vector<mx::array>& in,
                                     const BlockPart& part);

} // namespace temper
