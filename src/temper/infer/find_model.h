// What a user names as a model, as a folder that load_model() and Tokenizer::load() take. Every verb comes
// through here.
#pragma once

#include <filesystem>
#include <string>

#include "temper/net/resolve.h"

namespace temper {

// resolve_model(), and beyond it: a GGUF file, or a folder that holds one and no config.json, gives a folder
// made of it (io/gguf_import.h). Throws as those do; ModelError if such a folder holds several.
std::filesystem::path find_model(const std::string& name, const std::string& revision = "",
                                 ModelFiles files = ModelFiles::all);

} // namespace temper
