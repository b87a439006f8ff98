#include "temper/base/glob.h"

#include <doctest/doctest.h>

#include <fstream>

#include "text/fixtures.h"

using namespace temper;

TEST_CASE("patterns: stars stay within a part of a path, double ones do not") {
  CHECK(glob_match("d/*.parquet", "d/a.parquet"));
  CHECK(!glob_match("d/*.parquet", "d/e/a.parquet"));
  CHECK(glob_match("d/**/*.parquet", "d/e/f/a.parquet"));
  CHECK(glob_match("d/**/*.parquet", "d/a.parquet"));
  CHECK(glob_match("d/**", "d/e/a"));
  CHECK(glob_match("part-?.[jc]s*", "part-1.json"));
  CHECK(glob_match("part-[0-3].csv", "part-3.csv"));
  CHECK(!glob_match("part-[0-3].csv", "part-4.csv"));
  CHECK(glob_match("[!a]b", "cb"));
  CHECK(!glob_match("[!a]b", "ab"));
  CHECK(glob_match("a[b", "a[b"));
  CHECK(glob_match("[]]", "]"));
  CHECK(!glob_match("*", ".hidden"));
  CHECK(!glob_match("a/*", "a/.hidden"));
  CHECK(glob_match("a/.*", "a/.hidden"));
  CHECK(glob_match("*.b", "a.b"));
  CHECK(!glob_match("a", "ab"));
  CHECK(glob_root("a/b/*.txt") == "a/b");
  CHECK(glob_root("*.txt").empty());
  CHECK(glob_root("/*.txt") == "/");
}

TEST_CASE("a pattern of many stars gives up") {
  std::string pattern;
  for (int i = 0; i < 40; ++i) {
    pattern += "*a";
  }
  CHECK(!glob_match(pattern, std::string(200, 'a') + "b"));
}

TEST_CASE("files by pattern are sorted, without folders") {
  const test::TempFolder folder;
  for (const char* name : {"b.txt", "a.txt", "c.csv", ".d.txt", "sub/e.txt"}) {
    folder.write(name, "x");
  }
  const auto at = folder.path().string();
  const auto found = glob_files(at + "/*.txt");
  REQUIRE(found.size() == 2);
  CHECK(found[0] == folder.path() / "a.txt");
  CHECK(found[1] == folder.path() / "b.txt");
  CHECK(glob_files(at + "/**/*.txt").size() == 3);
  CHECK(glob_files(at + "/*/e.txt").size() == 1);
  CHECK(glob_files(at + "/s*").empty());
  CHECK(glob_files(at + "/nowhere/*").empty());
}
