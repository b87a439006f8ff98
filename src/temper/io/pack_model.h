// A model's dense weights packed, and back.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "temper/io/model_folder.h"

namespace temper {

// Packs the dense layers that `plan` names (models/quant_plan.h makes one), in their dtype. config.json stays
// as it is. Lazy. Throws ModelError naming a layer that its format does not fit.
void pack_model(Model& model, const std::map<std::string, QuantFormat>& plan);

// Unpacks every packed layer, to `dtype` (none: its scales', bfloat16 where they are of a mode's own). Lazy.
void unpack_model(Model& model, std::optional<mx::Dtype> dtype = std::nullopt);

} // namespace temper
