// A linear layer or an embedding by name: dense or packed weight, optional bias, optional adapter (LoRA, DoRA)
// on top.
// Dims: I in_features, O out_features, V vocab_size, E hidden_size, R rank.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "temper/nn/lora.h"
#include "temper/nn/params.h"
#include "temper/nn/recompute.h"
#include "temper/quant/packed.h"

namespace temper {

// What a forward pass needs beside its input.
struct ForwardContext {
  ParamView params;
  LoraConfig lora;
  std::optional<mx::array> dropout_key; // uint32 [2]; none outside training
  std::uint32_t dropout_site = 0;       // counts the layers that have drawn a key
  float neftune_alpha = 0.0F;           // noise on the embeddings, where there is a dropout key
  // In training: the names of the parameters that a gradient is wanted of.
  std::shared_ptr<const std::set<std::string>> trained{};
  Kept* kept = nullptr; // of the part of a block that is recomputed (recompute.h)
};

// Whether linears() computes the layer by adapted_linears() (nn/adapted_linear.h), with a backward pass written
// by hand: in training, unless the weight is packed and the rows so few that it is not unpacked for them.
bool has_lean_gradient(const ForwardContext& context, const std::string& name, std::size_t num_rows);

// linear() of each layer over one x: together where all have lean gradients. In a part of a block that is
// recomputed, what costs much is kept: with `keep_outputs` the results too.
std::vector<mx::array> linears(ForwardContext& context, const std::vector<std::string>& names,
                               const mx::array& x, bool keep_outputs = false);

// swiglu of two linear layers, through a third: by adapted_swiglu_layers() where that serves, else none. With
// `keep_output` the result is kept too.
std::optional<mx::array> swiglu_linears(ForwardContext& context, const std::string& gate, const std::string& up,
                                        const std::string& down, const mx::array& x, bool keep_output = false);

// The key that the next adapter's dropout draws from; none where nothing is dropped.
std::optional<mx::array> next_dropout_key(ForwardContext& context);

// The weight "<name>.weight" with its ".scales" (and ".biases"), where it is packed. Throws ModelError naming
// the tensor if they are no packed matrix for `in_features`.
std::optional<PackedWeight> packed_weight(const ParamView& params, const std::string& name, int in_features);

// The weight "<name>.weight" [..., O, I] as a matrix to multiply with, in `dtype`; a packed one unpacked. Lazy.
// Throws ModelError naming the tensor if its last dimension is not `in_features`.
mx::array dense_weight(const ParamView& params, const std::string& name, int in_features, mx::Dtype dtype);

// x [..., I] -> x W^T (+ bias [O]) [..., O] with "<name>.weight" [O, I], without any adapter. Lazy. Throws as
// dense_weight().
mx::array weight_product(const ParamView& params, const std::string& name, const mx::array& x,
                         const mx::array* bias = nullptr);

// x [..., I] -> [..., O]: m / |W + s (A B)^T| (x W^T + s dropout(x) A B) + bias with "<name>.weight" [O, I],
// and "<name>.lora_a", ".lora_b", ".m", ".bias" where they exist. As in mlx-lm, and unlike PEFT, dropout acts
// on A's input alone. Lazy. Throws ModelError naming the tensor if shapes disagree.
mx::array linear(ForwardContext& context, const std::string& name, const mx::array& x);

// Rows `tokens` [...] of the embedding "<name>.weight" [V, E], as `dtype` [..., E]; of a packed one these rows
// alone are unpacked. Adapted as linear() does with "<name>.lora_a" [V, R], ".lora_b" [R, E], ".m" [V]; dropout
// acts on the update, as in mlx-lm. Lazy.
mx::array embed(ForwardContext& context, const std::string& name, const mx::array& tokens, int features,
                mx::Dtype dtype);

// DoRA's factor m / |W + s (A B)^T| of each output feature, fp32 [O], for a layer with "<name>.m"; `pair` are
// its factors as a linear layer's (an embedding's: transposed and changed round). From "<name>.dora_scale" if
// that was computed before (fixed_dora_scales()), else by adapted_row_norms() with "<name>.weight_norm", else
// with the norms of the weight itself. The norms of W + s (A B)^T are kept, or found there. Differentiable in
// m. Lazy.
mx::array dora_scale(const ParamView& params, const std::string& name, const LoraPair& pair, float scale,
                     mx::Dtype dtype, Kept* kept = nullptr);

} // namespace temper
