// What `temper data` does, below its flags: check, preview, prepare.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <string>

#include "base/messages.h"
#include "data/tiny_model.h"
#include "temper/base/error.h"
#include "temper/data/data_check.h"
#include "temper/data/data_prepare.h"
#include "temper/data/data_preview.h"
#include "temper/data/row_source.h"

using namespace temper;
using namespace temper::test;

namespace {

namespace fs = std::filesystem;

const Quiet quiet;

std::string row(const std::string& prompt, const std::string& completion) {
  return R"({"prompt": ")" + prompt + R"(", "completion": ")" + completion + "\"}\n";
}

std::string rows(int count, const std::string& name) {
  std::string text;
  for (int i = 0; i < count; ++i) {
    text += row(name + std::to_string(i), "a");
  }
  return text;
}

std::vector<Json> read(const fs::path& path) {
  std::vector<Json> found;
  const auto source = open_rows(path);
  RawRow raw;
  while (source->next(raw)) {
    found.push_back(source->parse(raw));
  }
  return found;
}

RunConfig config_of(const TempFolder& folder) {
  RunConfig config;
  config.data = (folder.path() / "data").string();
  config.cache_dir = (folder.path() / "cache").string();
  return config;
}

} // namespace

TEST_CASE("check: rows, formats, malformed rows, and duplicates within and across splits") {
  const TempFolder folder;
  folder.write("data/train.jsonl", row("a", "1") + row("b", "2") + row("a", "1") + "oops\n");
  folder.write("data/test.csv", "prompt,completion\nb,2\nc,3\n");
  const auto check = check_data(config_of(folder), nullptr, 0);
  REQUIRE(check.splits.size() == 2);
  CHECK(check.splits[0].rows == 4);
  CHECK(check.splits[0].bad.count == 1);
  CHECK(check.splits[0].bad.first[0].line == 4);
  CHECK(check.has_bad_rows());
  REQUIRE(check.duplicates.size() == 2);
  CHECK(check.duplicates[0].split == "train");
  CHECK(check.duplicates[0].before == "train");
  CHECK(check.duplicates[0].first[0].first.line == 3);
  CHECK(check.duplicates[0].first[0].second.line == 1);
  CHECK(check.duplicates[1].split == "test");
  CHECK(check.duplicates[1].before == "train");
  CHECK(check.duplicates[1].first[0].first.line == 2);
  CHECK(check.duplicates[1].first[0].second.line == 2);
  CHECK(contains(check.to_text(), "test: 1 rows are in train as well (line 2 is line 2 there)"));
  CHECK(check.to_json()["duplicates"][1]["earlier_split"] == "train");
}

TEST_CASE("check with a tokenizer: lengths, truncation, supervised share") {
  const TempFolder folder;
  folder.write("data/train.jsonl", row("abc", "de") + row("abc", std::string(100, 'x')));
  auto config = config_of(folder);
  config.max_seq_length = 64;
  const auto check = check_data(config, tiny_tokenizer(), 266);
  const auto& train = check.splits.at(0);
  CHECK(train.examples == 2);
  CHECK(train.truncated.count == 1);
  CHECK(train.longest == 3 + 3 + 100 + 1);
  CHECK(train.tokens == 9 + 64);
  CHECK(train.supervised == 3 + 58);
  REQUIRE(train.lengths.size() == 8); // (64, 128] is the last bin
  CHECK(train.lengths[4] == 1);
  CHECK(train.lengths[7] == 1);
  CHECK(contains(check.to_text(), "84% supervised"));
  CHECK(contains(check.to_text(), "(max_seq_length 64)"));
  CHECK(contains(check.to_text(), "no row comes twice"));
}

TEST_CASE("preview: the rendered text, with what is learned marked") {
  const TempFolder folder;
  folder.write("a.jsonl",
               R"({"messages": [{"role": "user", "content": "hé"}, {"role": "assistant", "content": "yö"}]})"
               "\n[]\n"
               R"({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "long"}]})"
               "\n");
  DataOptions options;
  options.encode.max_seq_length = 7;
  auto shown = preview_rows({folder.path() / "a.jsonl"}, tiny_tokenizer(), options, 9);
  REQUIRE(shown.size() == 3);
  CHECK(shown[0].num_cut == 3);
  CHECK(shown[1].problem == "a row must be a JSON object, this is an array");
  CHECK(shown[2].line == 3);
  CHECK(shown[2].to_text("«", "»") == "<s><|user|>x<|assistant|>«lon»");
  options.encode.max_seq_length = 100;
  shown = preview_rows({folder.path() / "a.jsonl"}, tiny_tokenizer(), options, 1);
  REQUIRE(shown.size() == 1);
  CHECK(shown[0].to_text("«", "»") == "<s><|user|>hé<|assistant|>«yö</s>»");
  CHECK(shown[0].num_supervised == 4); // ö is two bytes, two tokens
  CHECK(shown[0].to_json()["text"] == "<s><|user|>hé<|assistant|>yö</s>");
  CHECK(preview_rows({folder.path() / "a.jsonl"}, tiny_tokenizer(), options, 1, 2).at(0).line == 3);
}

TEST_CASE("preview: what the tokenizer adds to plain text is shown") {
  const TempFolder folder;
  folder.write("a.jsonl", row("ab", "cd"));
  const auto shown = preview_rows({folder.path() / "a.jsonl"}, tiny_tokenizer(""), {}, 1);
  CHECK(shown.at(0).to_text("«", "»") == "<s>ab«cd</s>»");
}

TEST_CASE("prepare: splits by the seed, every row once, the same again") {
  const TempFolder folder;
  folder.write("a.jsonl", rows(100, "a"));
  PrepareOptions options;
  options.sources = {folder.path() / "a.jsonl"};
  options.out = folder.path() / "out";
  options.valid_fraction = 0.1;
  options.test_fraction = 0.2;
  const auto report = prepare_files(options);
  REQUIRE(report.outputs.size() == 3);
  const auto train = read(options.out / "train.jsonl");
  const auto valid = read(options.out / "valid.jsonl");
  const auto test = read(options.out / "test.jsonl");
  CHECK(train.size() == 70);
  CHECK(valid.size() == 10);
  CHECK(test.size() == 20);
  std::set<std::string> prompts;
  for (const auto* split : {&train, &valid, &test}) {
    for (const auto& found : *split) {
      prompts.insert(found["prompt"]);
    }
  }
  CHECK(prompts.size() == 100);
  CHECK(contains(message_of<Error>([&] { prepare_files(options); }), "is there already; pass --overwrite"));
  options.overwrite = true;
  prepare_files(options);
  CHECK(read(options.out / "train.jsonl") == train);
  options.seed = 1;
  prepare_files(options);
  CHECK(read(options.out / "train.jsonl") != train);
}

TEST_CASE("prepare: duplicates go before the split, whichever format they are written in") {
  const TempFolder folder;
  folder.write("a.jsonl", row("a", "1") + row("b", "2") + row("a", "1"));
  folder.write("b.jsonl",
               R"({"conversations": [{"from": "human", "value": "b"}, {"from": "gpt", "value": "2"}]})"
               "\n"
               R"({"conversations": [{"from": "human", "value": "c"}, {"from": "gpt", "value": "3"}]})"
               "\n");
  PrepareOptions options;
  options.sources = {folder.path() / "a.jsonl", folder.path() / "b.jsonl"};
  options.out = folder.path() / "out";
  options.deduplicate = true;
  const auto report = prepare_files(options);
  CHECK(report.sources[0].duplicates == 1);
  CHECK(report.sources[1].duplicates == 1);
  const auto made = read(options.out / "train.jsonl");
  REQUIRE(made.size() == 3); // formats differ: all are chats now
  for (const auto& found : made) {
    CHECK(found["messages"][0]["role"] == "user");
    CHECK(found["messages"][1]["role"] == "assistant");
  }
}

TEST_CASE("prepare: sources mix by weight, no row twice; too much asked for is said") {
  const TempFolder folder;
  folder.write("a.jsonl", rows(60, "a"));
  folder.write("b.jsonl", rows(100, "b"));
  PrepareOptions options;
  options.sources = {folder.path() / "a.jsonl", folder.path() / "b.jsonl"};
  options.out = folder.path() / "out";
  options.weights = {3, 1};
  auto report = prepare_files(options);
  CHECK(report.sources[0].used == 60);
  CHECK(report.sources[1].used == 20);
  options.overwrite = true;
  options.sample = 41;
  report = prepare_files(options);
  CHECK(report.sources[0].used == 31);
  CHECK(report.sources[1].used == 10);
  std::set<std::string> prompts;
  for (const auto& found : read(options.out / "train.jsonl")) {
    prompts.insert(found["prompt"]);
  }
  CHECK(prompts.size() == 41);
  options.sample = 100;
  CHECK(contains(message_of<Error>([&] { prepare_files(options); }),
                 "a.jsonl: has 60 usable rows but 75 are asked for"));
}

TEST_CASE("prepare: message lists keep their context out of the loss") {
  const TempFolder folder;
  folder.write("a.jsonl",
               R"({"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},)"
               R"({"role": "user", "content": "c"}], "completion": [{"role": "assistant", "content": "d"}]})"
               "\n");
  folder.write("b.jsonl",
               R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})"
               "\n");
  PrepareOptions options;
  options.sources = {folder.path() / "a.jsonl", folder.path() / "b.jsonl"};
  options.out = folder.path() / "out";
  prepare_files(options);
  for (const auto& found : read(options.out / "train.jsonl")) {
    if (found["messages"].size() == 4) {
      CHECK(found["messages"][1]["weight"] == 0);
      CHECK(!found["messages"][3].contains("weight"));
    }
  }
}

TEST_CASE("prepare: what does not fit is refused and leaves nothing behind") {
  const TempFolder folder;
  folder.write("a.jsonl", rows(3, "a") + "oops\n");
  folder.write("t.txt", "text\n");
  PrepareOptions options;
  options.sources = {folder.path() / "a.jsonl"};
  options.out = folder.path() / "out";
  const auto error = [&] { return message_of<Error>([&] { prepare_files(options); }); };
  CHECK(contains(error(), "a.jsonl:4: not JSON"));
  options.skip_bad_rows = true;
  options.max_bad_rows = 0;
  CHECK(contains(error(), "more than max_bad_rows 0"));
  options.max_bad_rows = 1;
  options.valid_fraction = 0.99;
  CHECK(contains(error(), "leave none for training"));
  options.valid_fraction = 0;
  options.weights = {1, 2};
  CHECK(contains(error(), "weights: give one a source"));
  options.weights = {0};
  CHECK(contains(error(), "weights: each must be above 0"));
  options.weights.clear();
  options.sources.push_back(folder.path() / "t.txt");
  CHECK(contains(error(), "text rows can't be mixed"));
  CHECK(!fs::exists(options.out));
}
