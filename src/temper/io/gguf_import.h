// A GGUF file as a model folder, for whatever takes one.
#pragma once

#include <filesystem>

#include "temper/models/spec.h"
#include "temper/nn/params.h"

namespace temper {

// A folder of this process's own with config.json, the tokenizer's files and a link to the file, "model.gguf",
// which load_model() reads the weights from; removed when the process ends. The same folder for the same file.
// Throws ModelError (gguf_config.h, gguf_tokenizer.h), IoError.
std::filesystem::path gguf_folder(const std::filesystem::path& file);

// Whether `path` is a file that begins as GGUF files do, or is named like one.
bool is_gguf(const std::filesystem::path& path);

// The parameters of `spec` in the file, by our names and in our order of rows, as they are stored
// (gguf_tensors.h). Lazy. Throws ModelError naming a tensor (theirs) that is missing or that `spec` has no
// place for.
Params import_gguf(const std::filesystem::path& file, const DecoderSpec& spec);

} // namespace temper
