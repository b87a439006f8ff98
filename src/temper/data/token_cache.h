// Tokenized rows in a file that is memory-mapped to be read: the second start is immediate, and data larger
// than memory trains. On-disk format: docs/formats/token-cache.md.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <vector>

#include "temper/base/json.h"
#include "temper/data/content_hash.h"
#include "temper/data/token_dataset.h"

namespace temper {

// Of an example, as it stands in the file.
struct TokenCacheEntry {
  std::uint64_t offset; // bytes from the end of the header
  std::uint32_t length; // tokens
  std::uint32_t line;
};

// Writes examples one after another; only their index stays in memory.
class TokenCacheWriter {
 public:
  // Throws IoError if `path` can't be written.
  explicit TokenCacheWriter(std::filesystem::path path);
  ~TokenCacheWriter();
  TokenCacheWriter(const TokenCacheWriter&) = delete;
  TokenCacheWriter& operator=(const TokenCacheWriter&) = delete;

  // `line`: TokenDataset::line(). Throws IoError.
  void add(const Example& example, std::int64_t line);
  // Completes the file. `key`: what it was made from. `order`: the examples' order, if not as added.
  // Throws IoError.
  void finish(std::uint64_t key, const Json& meta, const std::vector<std::uint32_t>& order = {});

 private:
  void write(const void* data, std::size_t size);
  [[noreturn]] void fail() const;

  std::filesystem::path path_;
  std::FILE* file_ = nullptr;
  std::vector<TokenCacheEntry> index_;
  std::uint64_t data_bytes_ = 0;
  ContentHash data_hash_;
};

struct CachedTokens {
  std::shared_ptr<const TokenDataset> data;
  Json meta;
};

// Maps a finished file. Throws IoError if it can't be read; DataError if it is damaged, of another version
// or made from something else than `key`. Sizes, header, index and meta are always checked, the tokens
// themselves up to 256 MB of them.
CachedTokens open_token_cache(const std::filesystem::path& path, std::uint64_t key);

} // namespace temper
