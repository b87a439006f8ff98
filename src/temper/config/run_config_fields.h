// RunConfig's visit list: the only place that knows its keys' names, help, ranges and mlx-lm's defaults.
#pragma once

#include "temper/config/field.h"
#include "temper/config/run_config.h"

namespace temper {

// The fields point into `config`, which must outlive the list.
FieldList run_config_fields(RunConfig& config);

} // namespace temper
