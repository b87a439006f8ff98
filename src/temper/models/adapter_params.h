// The parameters that an adapter adds to a model's layers: names and shapes, their start, and what a forward
// pass wants beside them.
// Dims: R rank, O, I a layer's out and in features, V vocab_size, E hidden_size, X experts.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "temper/models/tensors.h"
#include "temper/nn/lora.h"

namespace temper {

// Whether `tensor` is an adapter's: "<layer>.lora_a", ".lora_b" or ".m".
bool is_adapter_tensor(const std::string& tensor);

// Throws ConfigError if DoRA does not serve the layer: stacked experts.
void check_dora(const MatrixLayer& layer);

// By tensor name: "<layer>.lora_a" [I, R] and ".lora_b" [R, O]; of experts [X, R, I] and [X, O, R]; of an
// embedding [V, R] and [R, E]. With DoRA also "<layer>.m" [O], of an embedding [V].
std::map<std::string, mx::Shape> adapter_shapes(const LoraConfig& config,
                                                const std::vector<MatrixLayer>& layers);

// "<layer>.weight_norm", fp32: the norms of the layers' rows in `model`, that DoRA starts from and needs each
// step. Frozen, derived, never saved. Evaluated a layer at a time.
Params weight_norms(const Params& model, const std::vector<MatrixLayer>& layers);

// Fresh parameters, fp32: the adapter changes nothing at first. A layer's key depends on `seed` and its name
// only. With DoRA, `norms` are weight_norms(). Evaluated. Throws as check_dora().
Params init_adapter(const LoraConfig& config, const std::vector<MatrixLayer>& layers, std::uint64_t seed,
                    const Params& norms = {});

// Whether a forward pass takes a trained parameter in fp32 whatever the model computes in: DoRA's magnitudes,
// which are divided by a norm before they are rounded.
bool computes_in_fp32(const std::string& name);

// Trained parameters as a forward pass takes them: in `dtype`, but for those that compute in fp32. Lazy.
Params forward_params(const Params& trained, mx::Dtype dtype);

// "<layer>.dora_scale" of each linear layer and head that `adapter` gives a magnitude (nn/linear.h): without
// them each token generated would read every weight twice. Evaluated.
Params fixed_dora_scales(const DecoderSpec& spec, const Params& model, const LoraConfig& config,
                         const Params& adapter, mx::Dtype dtype);

} // namespace temper
