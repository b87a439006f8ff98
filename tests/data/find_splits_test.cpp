#include "temper/data/find_splits.h"

#include <doctest/doctest.h>

#include "base/messages.h"
#include "temper/base/error.h"
#include "temper/data/data_parts.h"
#include "text/fixtures.h"

using namespace temper;
using temper::test::contains;
using temper::test::TempFolder;

namespace {

std::vector<std::string> names(const std::vector<std::filesystem::path>& files) {
  std::vector<std::string> result;
  for (const auto& file : files) {
    result.push_back(file.filename().string());
  }
  return result;
}

using Names = std::vector<std::string>;

void fill(const TempFolder& folder, const Names& files) {
  for (const auto& name : files) {
    folder.write(name, "x\n");
  }
}

std::string refusal(const std::string& data) {
  try {
    find_splits(data);
  } catch (const DataError& error) {
    return error.what();
  }
  return "";
}

} // namespace

TEST_CASE("a folder's splits: whole files, the hub's parts, other names for valid") {
  const TempFolder folder;
  fill(folder, {"train-00001-of-00002.parquet", "train-00000-of-00002.parquet", "validation.jsonl",
                "test-00000-of-00001-0123456789abcdef.parquet", "README.md", "train_sft.jsonl"});
  const auto splits = find_splits(folder.path());
  CHECK(names(splits.train) == Names{"train-00000-of-00002.parquet", "train-00001-of-00002.parquet"});
  CHECK(names(splits.valid) == Names{"validation.jsonl"});
  CHECK(names(splits.test) == Names{"test-00000-of-00001-0123456789abcdef.parquet"});
  CHECK(names(find_split(folder.path(), "train_sft")) == Names{"train_sft.jsonl"});
  CHECK(names(split_files(folder.path(), "")) == names(splits.test));
  CHECK(names(split_files(folder.path(), "valid")) == names(splits.valid));
  CHECK(contains(describe_files(splits.train), "train-00000-of-00002.parquet and 1 more"));
}

TEST_CASE("splits in data/, and subsets that must be named") {
  const TempFolder folder;
  fill(folder, {"data/train.csv", "notes.txt"});
  CHECK(names(find_splits(folder.path()).train) == Names{"train.csv"});
  const TempFolder other;
  fill(other, {"main/train.parquet", "socratic/train.parquet"});
  CHECK(contains(refusal(other.path().string()), "name one: main, socratic"));
  CHECK(names(find_splits(other.path() / "main").train) == Names{"train.parquet"});
}

TEST_CASE("a part that is missing, and two files for one split") {
  const TempFolder folder;
  fill(folder, {"train-00000-of-00003.parquet", "train-00002-of-00003.parquet"});
  CHECK(contains(refusal(folder.path().string()), "part 1 (from 0) of the 3 of train is missing"));
  const TempFolder other;
  fill(other, {"train.jsonl", "train-00000-of-00001.parquet"});
  CHECK(contains(refusal(other.path().string()), "are there for one split"));
  const TempFolder third;
  fill(third, {"valid.jsonl", "val.jsonl"});
  CHECK(contains(refusal(third.path().string()), "both val.jsonl and valid.jsonl are there for one split"));
}

TEST_CASE("patterns and lists: files called after a split are that split, others train") {
  const TempFolder folder;
  fill(folder, {"a.jsonl", "b.jsonl", "test.jsonl", "c.csv", "with,comma.jsonl", "notes.md"});
  const auto at = folder.path().string();
  auto splits = find_splits(at + "/*.jsonl");
  CHECK(names(splits.train) == Names{"a.jsonl", "b.jsonl", "with,comma.jsonl"});
  CHECK(names(splits.test) == Names{"test.jsonl"});
  splits = find_splits(at + "/b.jsonl, " + at + "/c.csv," + at + "/test.jsonl");
  CHECK(names(splits.train) == Names{"b.jsonl", "c.csv"});
  CHECK(names(splits.test) == Names{"test.jsonl"});
  CHECK(names(find_splits(at + "/test.jsonl").train) == Names{"test.jsonl"});
  CHECK(names(find_splits(at + "/with,comma.jsonl").train) == Names{"with,comma.jsonl"});
  CHECK(names(split_files(at + "/test.jsonl", "")) == Names{"test.jsonl"});
  CHECK(contains(refusal(at + "/*.parquet"), "fits the pattern"));
  CHECK(contains(refusal(at + "/nowhere.jsonl"), "no such file or folder"));
  CHECK(contains(refusal(at + "/a.jsonl," + at + "/nowhere.jsonl"), "nowhere.jsonl: no such file"));
  CHECK(contains(refusal(""), "no data"));
}

TEST_CASE("hf_dataset's splits are those of the datasets library") {
  const auto range = [](const std::string& text, std::size_t size) {
    return parse_split(text).at(0).second.of(size);
  };
  using Range = std::pair<std::size_t, std::size_t>;
  // datasets.ReadInstruction.from_spec(text).to_absolute({"train": size}) gives these.
  CHECK(range("train", 11) == Range{0, 11});
  CHECK(range("train[:80%]", 11) == Range{0, 9});
  CHECK(range("train[-10%:]", 11) == Range{10, 11});
  CHECK(range("train[:50%]", 5) == Range{0, 2});
  CHECK(range("train[3:-2]", 11) == Range{3, 9});
  CHECK(range("train[10:100]", 11) == Range{10, 11});
  CHECK(range("train[20:]", 11).first == range("train[20:]", 11).second);
  const auto both = parse_split("train + test[:5]");
  REQUIRE(both.size() == 2);
  CHECK(both[1].first == "test");
  CHECK(both[0].second.is_all());
  for (const char* wrong : {"", "train[", "train[1]", "train[a:b]", "train+"}) {
    CHECK_THROWS_AS(parse_split(wrong), ConfigError);
  }
}

TEST_CASE("hf_dataset: a list with its own fields, and mlx-lm's default splits") {
  const TempFolder folder;
  fill(folder, {"one/train.jsonl", "two/train_sft.jsonl", "two/test.jsonl", "three/en/train.jsonl"});
  const auto at = folder.path().string();
  RunConfig config;
  config.train = true;
  config.hf_dataset = Json::parse(R"([{"path": ")" + at + R"(/one", "text_feature": "body"},
      {"path": ")" + at + R"(/two", "train_split": "train_sft", "valid_split": "test[:5]"},
      {"path": ")" + at + R"(/three", "config": {"name": "en"}}])");
  const auto parts = data_parts(config);
  REQUIRE(parts.size() == 3);
  CHECK(parts[0].options.format.text_feature == "body");
  CHECK(parts[0].train.at(0).range.of(100) == std::pair<std::size_t, std::size_t>{0, 80});
  CHECK(parts[0].valid.at(0).range.of(100) == std::pair<std::size_t, std::size_t>{90, 100});
  CHECK(parts[1].options.format.text_feature == "text");
  CHECK(names(parts[1].train.at(0).files) == Names{"train_sft.jsonl"});
  CHECK(parts[1].train.at(0).range.is_all());
  CHECK(names(parts[2].train.at(0).files) == Names{"train.jsonl"});
  config.hf_dataset = {{"path", at + "/one"}, {"train_split", "no_such"}};
  CHECK_THROWS_AS(data_parts(config), DataError);
  config.hf_dataset = Json::array();
  CHECK_THROWS_AS(data_parts(config), ConfigError);
}
