// What a run trains, by its configuration's method: an adapter's parameters, weights as a whole, or both.
#pragma once

#include <string>
#include <vector>

#include "temper/config/parameter_groups.h"
#include "temper/config/run_config.h"
#include "temper/io/model_folder.h"
#include "temper/models/tensors.h"
#include "temper/nn/lora.h"

namespace temper {

struct Method {
  LoraConfig lora;
  std::vector<MatrixLayer> layers; // adapted
  std::vector<std::string> keys;   // theirs, as adapter_config.json has them
  Params trainable;                // fp32: factors, magnitudes, or whole weights by the model's own names
  // PiSSA: the factors' start, which split_off_start() takes off the base weights. Zeros in a run that resumes:
  // its checkpoint has them.
  Params start;
};

// What can be refused without the weights; `description` is the model's config.json. Throws ConfigError.
void check_method(const RunConfig& config, const DecoderSpec& spec, const Json& description);

// Adds to `model` the frozen values that the method needs each step (DoRA's norms). Evaluated. Throws
// ConfigError for what the model's weights cannot serve.
Method make_method(const RunConfig& config, Model& model);

// PiSSA: W becomes W - scale (A B)^T for the factors of `start`, in W's dtype. Evaluated.
void split_off_start(Model& model, const LoraConfig& lora, const Params& start);

// What others load: of PiSSA the difference to its start as a LoRA of twice the rank over the original weights,
// (A B)^T - (A_0 B_0)^T = ([A A_0] [B; -B_0])^T; else `trainable` as it is. Lazy.
Params portable_params(const Params& trainable, const Params& start);
LoraConfig portable_config(const LoraConfig& lora, const Params& start);

// The configuration's groups, then LoRA+'s: lr_ratio times the learning rate on every B.
// Source: Hayou et al. 2024, arXiv:2402.12354.
std::vector<ParameterGroup> method_groups(const RunConfig& config);

} // namespace temper
