#include "temper/data/token_cache.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "temper/base/error.h"
#include "temper/base/files.h"
#include "temper/data/file_hash.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "the cache holds little-endian numbers");
static_assert(sizeof(TokenCacheEntry) == 16, "entries have no padding");

constexpr std::array<char, 8> kMagic = {'T', 'M', 'P', 'R', 'T', 'O', 'K', 'S'};
constexpr std::uint64_t kVersion = 1;
constexpr std::uint64_t kCheckedDataBytes = 256 << 20;
constexpr std::size_t kAlignment = 8; // of blocks, and so of the index behind them

struct Header {
  std::array<char, 8> magic;
  std::uint64_t version;
  std::uint64_t key;
  std::uint64_t num_examples;
  std::uint64_t data_bytes;
  std::uint64_t meta_bytes;
  std::uint64_t data_hash;
  std::uint64_t tail_hash;   // index and meta
  std::uint64_t header_hash; // the fields above
};
static_assert(sizeof(Header) == 72, "headers have no padding");

std::uint64_t hash_header(const Header& header) {
  return ContentHash().add(&header, offsetof(Header, header_hash)).value();
}

std::uint64_t block_bytes(std::uint64_t tokens) {
  return (tokens * (sizeof(std::int32_t) + 1) + kAlignment - 1) / kAlignment * kAlignment;
}

class MappedDataset : public TokenDataset {
 public:
  MappedDataset(MappedFile file, const Header& header)
      : file_(std::move(file)),
        fingerprint_(ContentHash().add_value(header.key).add_value(header.data_hash).hex()),
        data_(file_.bytes().data() + sizeof(Header)),
        index_(reinterpret_cast<const TokenCacheEntry*>(data_ + header.data_bytes), header.num_examples) {
  }

  std::size_t size() const override {
    return index_.size();
  }
  ExampleView operator[](std::size_t index) const override {
    const auto& entry = index_[index];
    const auto* tokens = reinterpret_cast<const std::int32_t*>(data_ + entry.offset);
    const auto* marks = reinterpret_cast<const std::uint8_t*>(tokens + entry.length);
    return {{tokens, entry.length}, {marks, entry.length}};
  }
  std::size_t length(std::size_t index) const override {
    return index_[index].length;
  }
  std::int64_t line(std::size_t index) const override {
    return index_[index].line;
  }
  const std::string& fingerprint() const override {
    return fingerprint_;
  }

 private:
  MappedFile file_;
  std::string fingerprint_;
  const std::byte* data_;
  std::span<const TokenCacheEntry> index_;
};

Header checked_header(const fs::path& path, std::span<const std::byte> bytes, std::uint64_t key) {
  const auto fail = [&](const char* what) { throw DataError(path.string() + ": " + what); };
  Header header{};
  if (bytes.size() < sizeof(header)) {
    fail("too short for a token cache");
  }
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.magic != kMagic || header.version != kVersion) {
    fail("not a token cache of this version");
  }
  if (header.header_hash != hash_header(header)) {
    fail("the header's checksum is wrong");
  }
  if (header.key != key) {
    fail("made from other data, tokenizer or options");
  }
  const auto tail_bytes = header.num_examples * sizeof(TokenCacheEntry) + header.meta_bytes;
  if (bytes.size() != sizeof(header) + header.data_bytes + tail_bytes) {
    fail("the file's size is wrong");
  }
  const auto* data = bytes.data() + sizeof(header);
  if (header.tail_hash != ContentHash().add(data + header.data_bytes, tail_bytes).value()) {
    fail("the index's checksum is wrong");
  }
  if (header.data_bytes <= kCheckedDataBytes &&
      header.data_hash != hash_map({reinterpret_cast<const char*>(data), header.data_bytes})) {
    fail("the tokens' checksum is wrong");
  }
  return header;
}

} // namespace

TokenCacheWriter::TokenCacheWriter(fs::path path) : path_(std::move(path)) {
  file_ = std::fopen(path_.c_str(), "wb");
  if (file_ == nullptr) {
    fail();
  }
  try {
    const Header blank{};
    write(&blank, sizeof(blank));
  } catch (...) {
    std::fclose(file_);
    throw;
  }
}

TokenCacheWriter::~TokenCacheWriter() {
  if (file_ != nullptr) {
    std::fclose(file_);
  }
}

void TokenCacheWriter::fail() const {
  throw IoError("cannot write " + path_.string() + ": " + std::strerror(errno));
}

void TokenCacheWriter::write(const void* data, std::size_t size) {
  if (size > 0 && std::fwrite(data, 1, size, file_) != size) {
    fail();
  }
}

void TokenCacheWriter::add(const Example& example, std::int64_t line) {
  const auto tokens = example.tokens.size();
  constexpr std::array<char, kAlignment> kZeros = {};
  const auto put = [&](const void* data, std::size_t size) {
    write(data, size);
    data_hash_.add(data, size);
  };
  put(example.tokens.data(), tokens * sizeof(std::int32_t));
  put(example.supervised.data(), tokens);
  put(kZeros.data(), block_bytes(tokens) - tokens * (sizeof(std::int32_t) + 1));
  const auto shown_line = std::min<std::int64_t>(line, std::numeric_limits<std::uint32_t>::max());
  index_.push_back({data_bytes_, static_cast<std::uint32_t>(tokens), static_cast<std::uint32_t>(shown_line)});
  data_bytes_ += block_bytes(tokens);
}

void TokenCacheWriter::finish(std::uint64_t key, const Json& meta, const std::vector<std::uint32_t>& order) {
  ContentHash tail;
  const auto put = [&](const void* data, std::size_t size) {
    write(data, size);
    tail.add(data, size);
  };
  for (std::size_t i = 0; i < index_.size(); ++i) {
    put(&index_[order.empty() ? i : order[i]], sizeof(TokenCacheEntry));
  }
  const std::string text = dump(meta);
  put(text.data(), text.size());
  Header header{kMagic,       kVersion, key, index_.size(), data_bytes_, text.size(), data_hash_.value(),
                tail.value(), 0};
  header.header_hash = hash_header(header);
  if (std::fseek(file_, 0, SEEK_SET) != 0) {
    fail();
  }
  write(&header, sizeof(header));
  if (std::fclose(std::exchange(file_, nullptr)) != 0) {
    fail();
  }
}

CachedTokens open_token_cache(const fs::path& path, std::uint64_t key) {
  MappedFile file(path);
  const auto header = checked_header(path, file.bytes(), key);
  const auto text = file.text().substr(file.text().size() - header.meta_bytes);
  Json meta = parse_json(text, path.string());
  return {std::make_shared<MappedDataset>(std::move(file), header), std::move(meta)};
}

} // namespace temper
