// GGUF files among a repository's files: many hold one model in a dozen types, and nothing else.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace temper {

// A model's name without the file that it asks for: "org/name:Q4_K_M", "org/name:file.gguf", each also with
// @revision before or after it; as llama.cpp and Ollama write it. `wanted` is empty if there is none.
struct GgufName {
  std::string name;
  std::string wanted;
};
GgufName split_gguf_name(std::string_view text);

// Those of `names` that `wanted` means: a file's name, or the type at its end ("q4_k_m" of "x-Q4_K_M.gguf"),
// whatever the case; all if it is empty. Files of parts of a model (mmproj) are no models.
std::vector<std::string> find_gguf(const std::vector<std::string>& names, const std::string& wanted);

// The only one of them. Throws ModelError, with the files that there are, if it is none or several, or one in
// parts; `repository` is its name for the message.
std::string choose_gguf(const std::vector<std::string>& names, const std::string& wanted,
                        const std::string& repository);

} // namespace temper
