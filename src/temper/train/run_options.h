// What the parts of a run are told, from its configuration.
#pragma once

#include <memory>

#include "temper/config/run_config.h"
#include "temper/data/loader.h"
#include "temper/train/step.h"
#include "temper/train/trainer.h"

namespace temper {

LoaderOptions loader_options(const RunConfig& config);

// Row widths and shapes as the device that MLX computes on wants them.
void suit_device(LoaderOptions& options);
// micro_batch_tokens, where none is given: on a GPU usual_micro_batch_tokens() (data/split_batch.h) for
// `train`.
void bound_micro_batches(LoaderOptions& options, const TokenDataset& train);

// `train` is the split that epochs count passes over.
TrainerOptions trainer_options(const RunConfig& config, const std::shared_ptr<const TokenDataset>& train);

// `lora` is the method's (trainable.h), `dtype` what the model computes in. Throws ConfigError.
StepOptions step_options(const RunConfig& config, const LoraConfig& lora, mx::Dtype dtype);

} // namespace temper
