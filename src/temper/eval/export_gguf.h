// A model, with an adapter merged into it if there is one, as a GGUF file for llama.cpp and Ollama; or a LoRA
// adapter alone. Formats: docs/formats/gguf.md.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace temper {

struct GgufExportOptions {
  std::filesystem::path model;
  std::filesystem::path adapter; // "": none
  std::filesystem::path out;
  std::string type = "f16";         // a recipe of io/gguf_recipe.h
  std::string name;                 // general.name
  std::string pre;                  // tokenizer.ggml.pre; "": as the tokenizer's expressions say
  bool adapter_only = false;        // the adapter's factors, unmerged
  bool modelfile = false;           // Ollama's, beside `out`
  bool force = false;               // write over a file
  std::function<void()> progress{}; // called before each tensor; what it throws ends the writing
};

struct GgufExportReport {
  std::string arch;
  int tensors = 0;
  std::uint64_t bytes = 0;
  std::map<std::string, int> types;     // tensors by type
  std::vector<std::string> fell_back{}; // tensors whose rows are no whole blocks of the type wanted
  std::vector<std::string> notes{};     // what differs in llama.cpp, a sentence each
  std::filesystem::path modelfile{};    // "" if none was written
};

// Writes `out` atomically, a tensor at a time. Throws ConfigError (options that exclude each other, a file that
// is there), ModelError (no such architecture in llama.cpp, a tokenizer it has not, weights beyond fp16's range
// ...), CheckpointError, IoError.
GgufExportReport export_gguf(const GgufExportOptions& options);

} // namespace temper
