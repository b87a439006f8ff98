#include "temper/net/hub_cache.h"

#include <doctest/doctest.h>

#include "temper/base/error.h"
#include "temper/net/http.h"
#include "temper/net/progress.h"
#include "text/fixtures.h"

using namespace temper;

namespace {

const std::string kCommit(40, 'a');

} // namespace

TEST_CASE("names on the hub, with revisions and paths") {
  auto repo = parse_hub_name("mlx-community/Llama-3.2-1B-Instruct-4bit");
  REQUIRE(repo);
  CHECK(repo->id == "mlx-community/Llama-3.2-1B-Instruct-4bit");
  CHECK(repo->revision == "main");
  CHECK(repo->api_path() == "models/mlx-community/Llama-3.2-1B-Instruct-4bit");
  repo = parse_hub_name("org/name@refs/pr/1");
  CHECK(!repo); // without hf:// a second slash is a path
  repo = parse_hub_name("org/name@v1.0");
  REQUIRE(repo);
  CHECK(repo->revision == "v1.0");
  repo = parse_hub_name("hf://gpt2");
  REQUIRE(repo);
  CHECK(repo->id == "gpt2");
  repo = parse_hub_name("hf://datasets/org/name@dev/data/train.jsonl");
  REQUIRE(repo);
  CHECK(repo->kind == HubRepo::Kind::dataset);
  CHECK(repo->id == "org/name");
  CHECK(repo->revision == "dev");
  CHECK(repo->path == "data/train.jsonl");
  CHECK(repo->web_path() == "datasets/org/name");
}

TEST_CASE("paths are no names") {
  for (const char* path :
       {"model", "./models/llama", "../models/llama", "/models/llama", "a/b/c", "~/models/llama", "a/", "/a",
        "", "a b/c", "org/..", "org/na--me", ".hidden/model", "org/name@", "org/name@.."}) {
    CAPTURE(path);
    CHECK(!parse_hub_name(path));
  }
  for (const char* bad : {"hf://", "hf://a b/c", "hf://datasets/a/b/../../c", "hf://org/name@../../x"}) {
    CAPTURE(bad);
    CHECK_THROWS_AS(parse_hub_name(bad), ConfigError);
  }
}

TEST_CASE("the cache's layout is huggingface_hub's") {
  const test::TempFolder folder;
  HubRepo repo;
  repo.id = "org/name";
  const HubCache cache(folder.path(), repo);
  CHECK(cache.blob("e") == folder.path() / "models--org--name/blobs/e");
  CHECK(cache.lock_file("e") == folder.path() / ".locks/models--org--name/e.lock");
  CHECK(cache.commit_of("main").empty());
  cache.keep_commit("main", kCommit);
  CHECK(read_file(folder.path() / "models--org--name/refs/main") == kCommit);
  CHECK(cache.commit_of("main") == kCommit);
  CHECK(cache.commit_of(kCommit) == kCommit);
  folder.write("models--org--name/blobs/e1", "one");
  folder.write("models--org--name/blobs/e2", "two");
  cache.link(kCommit, "sub/file.json", "e1");
  cache.link(kCommit, "sub/file.json", "e2");
  const auto pointer = cache.snapshot(kCommit) / "sub/file.json";
  CHECK(std::filesystem::read_symlink(pointer) == "../../../blobs/e2");
  CHECK(read_file(pointer) == "two");
  for (const char* outside : {"../x", "/x", "a/../../x", "a\\b", ""}) {
    CHECK_THROWS_AS(cache.link(kCommit, outside, "e1"), IoError);
  }
}

TEST_CASE("a damaged ref is as good as none") {
  const test::TempFolder folder;
  HubRepo repo;
  repo.id = "org/name";
  folder.write("models--org--name/refs/main", "../../elsewhere");
  CHECK(HubCache(folder.path(), repo).commit_of("main").empty());
}

TEST_CASE("addresses: what a token may be sent to, what a path is written as") {
  CHECK(origin_of("https://Hub.example:8443/a?b#c") == "https://hub.example:8443");
  CHECK(origin_of("https://user:secret@hub.example/a") == "https://hub.example");
  CHECK(origin_of("https://hub.example?x=@other") == "https://hub.example");
  CHECK(origin_of("http://hub.example") != origin_of("https://hub.example"));
  CHECK(encode_path("a b/c#1%é.json") == "a%20b/c%231%25%C3%A9.json");
}

TEST_CASE("bytes for people") {
  CHECK(format_bytes(950) == "950 B");
  CHECK(format_bytes(1234) == "1.23 kB");
  CHECK(format_bytes(45678901) == "45.7 MB");
  CHECK(format_bytes(999999999) == "1.00 GB");
  CHECK(format_bytes(12345678901234) == "12346 GB");
}
