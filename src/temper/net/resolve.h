// What a user names as a model or as data, as a path on this machine. Every verb comes through here.
#pragma once

#include <filesystem>
#include <string>

namespace temper {

enum class ModelFiles {
  all,         // weights, configuration, tokenizer, chat templates
  description, // all but the weights
};

// `name` itself if it is a path that exists, or does not look like a hub's name. Otherwise the model's folder
// in the hub's cache, fetched if need be: org/name, org/name@revision, hf://org/name. `revision`, if not empty,
// is a branch, tag or commit; it goes before one in the name. A GGUF file if the repository has no safetensors
// or the name asks for one (hub_gguf.h): its path then, whatever `files` says. A process asks once: all it
// reads is of one commit. Throws ConfigError, ModelError (no weights there, several GGUF files), IoError as
// Hub::snapshot.
std::filesystem::path resolve_model(const std::string& name, const std::string& revision = "",
                                    ModelFiles files = ModelFiles::all);

// The same for data: hf://datasets/org/name[@revision][/file, folder or pattern] gives the folder with the
// train, valid and test files (the repository's own or its data/), the one data file, or the pattern for files
// here. s3://bucket/key, a folder of keys or a pattern likewise (s3.h). Anything else comes back as it is.
// Throws DataError if there is no jsonl, json, csv, tsv, txt or parquet file; IoError as above.
std::filesystem::path resolve_data(const std::filesystem::path& path);

} // namespace temper
