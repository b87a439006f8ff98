#include "temper/data/token_cache.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <string>

#include "temper/base/error.h"
#include "temper/base/files.h"
#include "text/fixtures.h"

using namespace temper;
using temper::test::TempFolder;

namespace {

const std::vector<Example> kExamples = {
    {{1, 2, 3}, {0, 1, 1}}, {{7}, {1}}, {{}, {}}, {{9, 8, 7, 6}, {0, 0, 0, 1}}};

void write_cache(const std::filesystem::path& path, const std::vector<std::uint32_t>& order = {}) {
  TokenCacheWriter writer(path);
  for (std::size_t i = 0; i < kExamples.size(); ++i) {
    writer.add(kExamples[i], static_cast<std::int64_t>(10 * i));
  }
  writer.finish(42, {{"rows", 4}}, order);
}

void check_example(const TokenDataset& data, std::size_t index, const Example& expected) {
  const auto view = data[index];
  CHECK(std::ranges::equal(view.tokens, expected.tokens));
  CHECK(std::ranges::equal(view.supervised, expected.supervised));
  CHECK(data.length(index) == expected.tokens.size());
}

} // namespace

TEST_CASE("what is written is read, in the given order") {
  const TempFolder folder;
  const auto path = folder.path() / "a.bin";
  write_cache(path);
  const auto cached = open_token_cache(path, 42);
  REQUIRE(cached.data->size() == 4);
  CHECK(cached.meta["rows"] == 4);
  for (std::size_t i = 0; i < 4; ++i) {
    check_example(*cached.data, i, kExamples[i]);
    CHECK(cached.data->line(i) == static_cast<std::int64_t>(10 * i));
  }
  write_cache(path, {3, 0, 1, 2});
  const auto ordered = open_token_cache(path, 42);
  check_example(*ordered.data, 0, kExamples[3]);
  check_example(*ordered.data, 1, kExamples[0]);
}

TEST_CASE("a cache for something else, and any damaged byte or length, is refused") {
  const TempFolder folder;
  const auto path = folder.path() / "a.bin";
  write_cache(path);
  CHECK_THROWS_AS(open_token_cache(path, 43), DataError);
  CHECK_THROWS_AS(open_token_cache(folder.path() / "absent.bin", 42), IoError);
  const std::string good = read_file(path);
  for (std::size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x10);
    write_file_atomic(path, bad);
    CHECK_THROWS_AS(open_token_cache(path, 42), DataError);
  }
  for (const std::size_t size : {std::size_t{0}, std::size_t{50}, good.size() / 2, good.size() - 1}) {
    write_file_atomic(path, good.substr(0, size));
    CHECK_THROWS_AS(open_token_cache(path, 42), DataError);
  }
  write_file_atomic(path, good + "x");
  CHECK_THROWS_AS(open_token_cache(path, 42), DataError);
}

TEST_CASE("an unwritable path is an IoError") {
  CHECK_THROWS_AS(TokenCacheWriter("/nonexistent/folder/a.bin"), IoError);
}

TEST_CASE("the content hash sees every byte and not the cuts") {
  std::string bytes(1000, 'a');
  const auto whole = ContentHash().add(bytes.data(), bytes.size()).value();
  ContentHash parts;
  for (std::size_t at = 0, size = 1; at < bytes.size(); at += size, size = size * 2 % 61 + 1) {
    parts.add(bytes.data() + at, std::min(size, bytes.size() - at));
  }
  CHECK(parts.value() == whole);
  for (std::size_t i = 0; i < bytes.size(); i += 37) {
    auto changed = bytes;
    changed[i] = 'b';
    CHECK(ContentHash().add(changed.data(), changed.size()).value() != whole);
  }
  CHECK(ContentHash().add(bytes.data(), 999).value() != whole);
}
