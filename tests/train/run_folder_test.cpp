#include "temper/train/run_folder.h"

#include <doctest/doctest.h>

#include <sstream>

#include "temper/base/error.h"
#include "temper/base/files.h"
#include "text/fixtures.h"

using namespace temper;
using temper::test::TempFolder;

namespace {

Event event(const std::string& type, std::int64_t step) {
  return {type, 1.5, step, {{"loss", 0.25}}};
}

std::vector<Json> lines(const std::filesystem::path& file) {
  std::vector<Json> found;
  std::istringstream text(read_file(file));
  for (std::string line; std::getline(text, line);) {
    found.push_back(Json::parse(line));
  }
  return found;
}

} // namespace

TEST_CASE("nothing is made before create()") {
  const TempFolder temp;
  const auto path = temp.path() / "a" / "run";
  RunFolder folder(path);
  CHECK(folder.path() == path);
  CHECK(folder.checkpoints() == path / "checkpoints");
  folder.rewind_events(3);
  folder.discard_if_empty();
  CHECK(std::filesystem::is_empty(temp.path()));
  folder.create();
  CHECK(std::filesystem::is_directory(path));
}

TEST_CASE("an unused folder is taken back with the parents that were made for it, and no others") {
  const TempFolder temp;
  std::filesystem::create_directories(temp.path() / "mine");
  RunFolder folder(temp.path() / "mine" / "a" / "b");
  folder.create();
  folder.discard_if_empty();
  CHECK(std::filesystem::is_empty(temp.path() / "mine"));

  RunFolder existing(temp.path() / "mine");
  existing.create();
  existing.discard_if_empty();
  CHECK(std::filesystem::is_directory(temp.path() / "mine"));
}

TEST_CASE("a used folder stays") {
  const TempFolder temp;
  RunFolder folder(temp.path() / "a" / "b");
  folder.create();
  folder.on_event(event("run_started", 0));
  folder.discard_if_empty();
  CHECK(std::filesystem::exists(temp.path() / "a" / "b" / "events.jsonl"));
}

TEST_CASE("a folder that can't be made or written to is an IoError that names it") {
  const TempFolder temp;
  write_file_atomic(temp.path() / "file", "no folder");
  RunFolder folder(temp.path() / "file" / "run");
  try {
    folder.create();
    FAIL("a folder inside a file");
  } catch (const IoError& error) {
    CHECK(std::string(error.what()).find((temp.path() / "file").string()) != std::string::npos);
  }
  RunFolder absent(temp.path() / "absent");
  CHECK_THROWS_AS(absent.on_event(event("step", 1)), IoError);
}

TEST_CASE("events are whole lines at once, appended") {
  const TempFolder temp;
  const auto file = temp.path() / "events.jsonl";
  RunFolder folder(temp.path());
  folder.on_event(event("step", 1));
  CHECK(lines(file).size() == 1);
  {
    RunFolder again(temp.path());
    again.on_event(event("eval", 2));
  }
  const auto found = lines(file);
  REQUIRE(found.size() == 2);
  CHECK(found[0] == Json{{"type", "step"}, {"time", 1.5}, {"step", 1}, {"loss", 0.25}});
  CHECK(found[1].at("type") == "eval");
  CHECK(read_file(file).back() == '\n');
}

TEST_CASE("rule 7: events after the checkpoint are dropped, and half a line with them") {
  const TempFolder temp;
  const auto file = temp.path() / "events.jsonl";
  {
    RunFolder folder(temp.path());
    for (const int step : {0, 5, 10, 15, 10, 20}) {
      folder.on_event(event("step", step));
    }
  }
  write_file_atomic(file, read_file(file) + R"({"type":"step","time":2,"st)");
  RunFolder folder(temp.path());
  folder.rewind_events(10);
  const auto kept = lines(file);
  REQUIRE(kept.size() == 4);
  CHECK(kept[2].at("step") == 10);
  CHECK(kept[3].at("step") == 10);
  folder.on_event(event("step", 15));
  CHECK(lines(file).size() == 5);

  RunFolder fresh(temp.path());
  fresh.rewind_events(-1);
  CHECK(read_file(file).empty());
}

TEST_CASE("a killed run's temporary files are removed, others stay") {
  const TempFolder temp;
  RunFolder folder(temp.path());
  folder.create();
  std::filesystem::create_directories(folder.checkpoints() / "0000003");
  write_file_atomic(temp.path() / "mine.tmp.txt", "kept");
  write_file_atomic(temp.path() / "run.json", "{}");
  write_file_atomic(temp.path() / "half", "");
  std::filesystem::rename(temp.path() / "half", folder.checkpoints() / "0000003" / ".state.json.tmp12345");
  folder.remove_leftovers();
  CHECK(std::filesystem::exists(temp.path() / "mine.tmp.txt"));
  CHECK(std::filesystem::exists(temp.path() / "run.json"));
  CHECK(std::filesystem::is_empty(folder.checkpoints() / "0000003"));
}
