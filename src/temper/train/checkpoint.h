// A checkpoint: one folder with the whole training state, complete or absent.
// Format: docs/formats/checkpoint.md.
#pragma once

#include <filesystem>
#include <optional>
#include <vector>

#include "temper/train/state.h"

namespace temper {

// Writes `state` (evaluated) to `folder`: arrays to state.safetensors, the host's part and `details` to
// state.json, the latter last, so that a folder with a state.json is whole. Throws IoError.
void save_checkpoint(const std::filesystem::path& folder, const TrainState& state, const Json& details);

// Restores `state`, whose parameters' names and shapes are those expected; returns the details.
// Throws CheckpointError if a file is missing or damaged or belongs to another run.
Json load_checkpoint(const std::filesystem::path& folder, TrainState& state);

// "0000100" for step 100.
std::string checkpoint_name(std::int64_t step);

// The whole checkpoints under `folder`, by step. Their names are their steps.
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& folder);

} // namespace temper
