// One line a family; registry.cpp lists them.
#pragma once

#include "temper/models/registry.h"

namespace temper {

Family llama_family();
Family qwen_family();
Family qwen3_5_family();
Family qwen3_5_text_family();
Family gemma2_family();
Family gemma3_family();
Family gemma3_text_family();
Family phi3_family();
Family lfm2_family();
Family smollm3_family();
Family olmo2_family();
Family granite_family();
Family mixtral_family();
Family gpt_oss_family();

} // namespace temper
