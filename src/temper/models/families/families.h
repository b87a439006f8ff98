// One line a family; registry.cpp lists them.
#pragma once

#include "temper/models/registry.h"

namespace temper {

Family llama_family();

} // namespace temper
