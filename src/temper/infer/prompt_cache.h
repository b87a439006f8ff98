// The caches of a prompt on disk, so that a later run need not read it again. Format:
// docs/formats/prompt-cache.md.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "temper/infer/kv_cache.h"

namespace temper {

// What the caches were computed with; they are of use with the same alone.
struct CacheOrigin {
  std::string model;   // fingerprints (fingerprint.h)
  std::string adapter; // "" : none
  std::string dtype;   // what the model computes in
};

struct PromptCache {
  std::vector<std::int32_t> tokens; // as many as the cache has columns
  KvCache cache;                    // one row
};

// Written atomically. Evaluating. Throws IoError.
void save_prompt_cache(const std::filesystem::path& path, const CacheOrigin& origin, const PromptCache& prompt,
                       const DecoderSpec& spec);

// Throws ModelError if the file is of another model, adapter or dtype, or damaged; IoError if it can't be read.
PromptCache load_prompt_cache(const std::filesystem::path& path, const CacheOrigin& origin,
                              const DecoderSpec& spec);

} // namespace temper
