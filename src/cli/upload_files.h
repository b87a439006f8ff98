// What of a run's or a model's folder goes to the hub, and the page that says what it is.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "temper/net/hub_upload.h"

namespace temper::cli {

// Weights, configuration, tokenizer, templates, GGUF files and the page (README.md, made if there is none) of a
// folder; of a fully fine-tuned run those of its model/. No checkpoints, events or other files. Or one GGUF or
// safetensors file with a page. `repo`: the repository's name, for the page's title.
// Throws ConfigError if `path` does not exist, ModelError if it has no weights.
std::vector<UploadFile> choose_upload(const std::filesystem::path& path, const std::string& repo);

} // namespace temper::cli
