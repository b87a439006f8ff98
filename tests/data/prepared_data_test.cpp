#include "temper/data/prepared_data.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <set>
#include <string>

#include "base/messages.h"
#include "data/tiny_model.h"
#include "temper/base/error.h"
#include "temper/base/files.h"

using namespace temper;
using namespace temper::test;

namespace {

namespace fs = std::filesystem;

const Quiet quiet;

// A data folder, a cache folder, and a configuration that names them.
struct Setup {
  TempFolder folder;
  std::shared_ptr<const Tokenizer> tokenizer = tiny_tokenizer();
  RunConfig config;

  Setup() {
    config.data = (folder.path() / "data").string();
    config.cache_dir = (folder.path() / "cache").string();
    fs::create_directories(config.data);
  }
  void write(const std::string& name, const std::string& text) const {
    folder.write("data/" + name, text);
  }
  PreparedData prepare(int vocab = 266) const {
    return prepare_data(config, tokenizer, vocab);
  }
  std::string error() const {
    try {
      prepare();
    } catch (const DataError& caught) {
      return caught.what();
    }
    return "";
  }
  std::vector<fs::path> caches() const {
    std::vector<fs::path> found;
    if (fs::exists(config.cache_dir)) {
      for (const auto& entry : fs::directory_iterator(config.cache_dir)) {
        found.push_back(entry.path());
      }
    }
    return found;
  }
};

std::string rows(int count, int first = 0) {
  std::string text;
  for (int i = first; i < first + count; ++i) {
    text += R"({"prompt": "q)" + std::to_string(i) + R"(", "completion": "a)" + std::to_string(i) + "\"}\n";
  }
  return text;
}

bool same(const TokenDataset& a, const TokenDataset& b) {
  bool equal = a.size() == b.size();
  for (std::size_t i = 0; equal && i < a.size(); ++i) {
    equal = std::ranges::equal(a[i].tokens, b[i].tokens) &&
            std::ranges::equal(a[i].supervised, b[i].supervised) && a.line(i) == b.line(i);
  }
  return equal;
}

} // namespace

TEST_CASE("a folder's splits are tokenized, counted, and come from the cache the second time") {
  Setup setup;
  setup.write("train.jsonl", rows(700));
  setup.write("valid.csv", "prompt,completion\nx,y\n");
  setup.write("test.txt", "ab\ncd\n");
  setup.config.test = true;
  const auto first = setup.prepare();
  REQUIRE(first.reports.size() == 3);
  CHECK(first.train->size() == 700);
  CHECK(first.train->line(699) == 700); // in the file's order, whatever thread was faster
  CHECK(first.reports[0].format == "completion");
  CHECK(first.reports[0].format_detected);
  CHECK(first.reports[2].format == "text");
  CHECK(first.reports[0].examples == 700);
  std::int64_t tokens = 0;
  for (std::size_t i = 0; i < first.train->size(); ++i) {
    tokens += static_cast<std::int64_t>(first.train->length(i));
  }
  CHECK(first.reports[0].tokens == tokens);
  CHECK(setup.caches().size() == 3);

  const auto second = setup.prepare();
  CHECK(second.reports[0].from_cache);
  CHECK(!first.reports[0].from_cache);
  CHECK(same(*first.train, *second.train));
  CHECK(second.fingerprint == first.fingerprint);
  auto first_report = first.reports[0].to_json();
  auto second_report = second.reports[0].to_json();
  for (auto* report : {&first_report, &second_report}) {
    report->erase("from_cache");
    report->erase("seconds");
  }
  CHECK(first_report == second_report);
}

TEST_CASE("data, tokenizer and options each have their own cache") {
  Setup setup;
  setup.write("train.jsonl", rows(5));
  const auto fingerprint = setup.prepare().fingerprint;
  setup.config.mask_prompt = false;
  CHECK(setup.prepare().fingerprint != fingerprint);
  setup.config.mask_prompt = true;
  setup.config.max_seq_length = 99;
  CHECK(setup.prepare().fingerprint != fingerprint);
  setup.config.max_seq_length = 2048;
  setup.config.system_prompt = "s";
  CHECK(setup.prepare().fingerprint != fingerprint);
  setup.config.system_prompt = "";
  setup.tokenizer = tiny_tokenizer("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}");
  CHECK(setup.prepare().fingerprint != fingerprint);
  setup.tokenizer = tiny_tokenizer();
  CHECK(setup.prepare().reports[0].from_cache);
  setup.write("train.jsonl", rows(4) + rows(1, 9)); // as long, other bytes
  CHECK(!setup.prepare().reports[0].from_cache);
  CHECK(setup.caches().size() == 6);
}

TEST_CASE("a damaged cache is made anew") {
  Setup setup;
  setup.write("train.jsonl", rows(5));
  const auto first = setup.prepare();
  const auto cache = setup.caches().at(0);
  auto bytes = read_file(cache);
  bytes[bytes.size() / 2] ^= 1;
  write_file_atomic(cache, bytes);
  const auto second = setup.prepare();
  CHECK(!second.reports[0].from_cache);
  CHECK(same(*first.train, *second.train));
  CHECK(setup.prepare().reports[0].from_cache);
}

TEST_CASE("what a killed process left in the cache folder is removed after a day, a living one's is not") {
  Setup setup;
  setup.write("train.jsonl", rows(5));
  setup.folder.write("cache/.tokens-1.1.tmp.bin", "old");
  setup.folder.write("cache/.tokens-2.2.tmp.bin", "new");
  fs::last_write_time(fs::path(setup.config.cache_dir) / ".tokens-1.1.tmp.bin",
                      fs::file_time_type::clock::now() - std::chrono::hours(48));
  setup.prepare();
  CHECK(!fs::exists(fs::path(setup.config.cache_dir) / ".tokens-1.1.tmp.bin"));
  CHECK(fs::exists(fs::path(setup.config.cache_dir) / ".tokens-2.2.tmp.bin"));
}

TEST_CASE("without a writable cache folder the tokens stay in memory") {
  Setup setup;
  setup.write("train.jsonl", rows(5));
  const auto cached = setup.prepare();
  setup.folder.write("file", "in the way");
  setup.config.cache_dir = (setup.folder.path() / "file" / "cache").string();
  const auto prepared = setup.prepare();
  CHECK(prepared.train->size() == 5);
  CHECK(same(*prepared.train, *cached.train));
}

TEST_CASE("valid_fraction splits one file by the seed, without overlap") {
  Setup setup;
  setup.write("all.jsonl", rows(100));
  setup.config.data = (fs::path(setup.config.data) / "all.jsonl").string();
  setup.config.valid_fraction = 0.2;
  const auto prepared = setup.prepare();
  REQUIRE(prepared.valid);
  CHECK(prepared.train->size() == 80);
  CHECK(prepared.valid->size() == 20);
  CHECK(prepared.reports[0].examples == 80);
  CHECK(prepared.reports[1].examples == 20);
  std::set<std::int64_t> lines;
  std::int64_t tokens = 0;
  for (const auto& split : {prepared.train, prepared.valid}) {
    for (std::size_t i = 0; i < split->size(); ++i) {
      lines.insert(split->line(i));
      tokens += static_cast<std::int64_t>(split->length(i));
    }
  }
  CHECK(lines.size() == 100);
  CHECK(prepared.reports[0].tokens + prepared.reports[1].tokens == tokens);
  CHECK(same(*setup.prepare().valid, *prepared.valid));
  setup.config.seed = 1;
  CHECK(!same(*setup.prepare().valid, *prepared.valid));
}

TEST_CASE("dataset_size keeps so many shuffled training examples") {
  Setup setup;
  setup.write("train.jsonl", rows(50));
  setup.config.dataset_size = 7;
  const auto prepared = setup.prepare();
  CHECK(prepared.train->size() == 7);
  CHECK(prepared.reports[0].examples == 7);
  CHECK(prepared.train->line(6) > 7);
  setup.config.dataset_size = 500;
  CHECK(setup.prepare().train->size() == 50);
}

TEST_CASE("malformed rows stop the run, naming file and line, or are skipped up to a limit") {
  Setup setup;
  setup.write("train.jsonl", rows(3) + "{oops\n" + rows(2) + "[1]\n{\"text\": \"other\"}\n");
  const auto error = setup.error();
  CHECK(contains(error, "train.jsonl:4: not JSON"));
  CHECK(contains(error, "2 more malformed rows"));
  CHECK(!contains(error, "\n"));
  CHECK(setup.caches().empty());
  setup.config.on_bad_row = "skip";
  const auto prepared = setup.prepare();
  CHECK(prepared.train->size() == 5);
  REQUIRE(prepared.reports[0].bad.count == 3);
  CHECK(prepared.reports[0].bad.first[1].line == 7);
  CHECK(contains(prepared.reports[0].bad.first[2].what, "formats can't be mixed"));
  setup.config.max_bad_rows = 2;
  CHECK(contains(setup.error(), "more than max_bad_rows 2"));
  setup.config.on_bad_row = "stop"; // a cache made with skip does not let the rows pass
  CHECK(contains(setup.error(), "train.jsonl:4: not JSON"));
}

TEST_CASE("rule 4: rows without a target are counted and left out, and refused if all are") {
  Setup setup;
  const std::string good =
      R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})";
  const std::string mute = R"({"messages": [{"role": "user", "content": "a"}]})";
  setup.write("train.jsonl", good + "\n" + mute + "\n");
  const auto prepared = setup.prepare();
  CHECK(prepared.train->size() == 1);
  CHECK(prepared.reports[0].unsupervised.count == 1);
  CHECK(prepared.reports[0].unsupervised.first[0].line == 2);
  setup.write("train.jsonl", mute + "\n" + mute + "\n");
  CHECK(contains(setup.error(), "no row has an assistant message"));
}

TEST_CASE("rule 5: rows that lose every label to max_seq_length are dropped and named; all of them: refused") {
  Setup setup;
  setup.write("train.jsonl", rows(2) + R"({"prompt": "a long question, too long", "completion": "x"})" + "\n" +
                                 R"({"prompt": "q", "completion": "a long answer, too long"})" + "\n");
  setup.config.max_seq_length = 12;
  const auto prepared = setup.prepare();
  CHECK(prepared.train->size() == 3);
  CHECK(prepared.reports[0].dropped.count == 1);
  CHECK(prepared.reports[0].dropped.first[0].line == 3);
  CHECK(prepared.reports[0].truncated.count == 1);
  CHECK(prepared.reports[0].longest > 12);
  setup.config.max_seq_length = 3;
  CHECK(contains(setup.error(), "max_seq_length 3 cuts off every target"));
}

TEST_CASE("token ids beyond the model's vocabulary name their line; a padded embedding is normal") {
  Setup setup;
  setup.write("train.jsonl", rows(3) + R"({"prompt": "~", "completion": "a"})" + "\n");
  CHECK(setup.prepare(512).train->size() == 4);
  try {
    setup.prepare(id_of('z'));
    FAIL("no error");
  } catch (const DataError& error) {
    CHECK(contains(error.what(), "train.jsonl:4: token id 136 is beyond the model's vocabulary of 132"));
  }
}

TEST_CASE("what is not there or not known is said") {
  Setup setup;
  CHECK(contains(setup.error(), "no train, valid or test file"));
  setup.write("valid.jsonl", rows(1));
  CHECK(contains(setup.error(), "no train file"));
  setup.write("train.jsonl", "");
  CHECK(contains(setup.error(), "train.jsonl: the file is empty"));
  setup.write("train.jsonl", "{\"question\": \"a\"}\n");
  CHECK(contains(setup.error(), "train.jsonl:1: no known format: the row has 'question'"));
  setup.write("train.jsonl", rows(1));
  setup.write("train.csv", "a\nb\n");
  CHECK(contains(setup.error(), "train.csv and train.jsonl"));
  fs::remove(fs::path(setup.config.data) / "train.csv");
  setup.config.test = true;
  CHECK(contains(setup.error(), "--test needs a test file"));
  setup.config.data = "/nowhere";
  CHECK(contains(setup.error(), "/nowhere: no such file"));
  setup.config.data_format = "chats";
  CHECK_THROWS_AS(setup.prepare(), ConfigError);
}

TEST_CASE("mlx-lm's hf_dataset names local data and its fields") {
  Setup setup;
  setup.write("train.jsonl", "{\"q\": \"a\", \"a\": \"b\"}\n");
  setup.config.hf_dataset = {{"path", setup.config.data}, {"prompt_feature", "q"}, {"completion_feature", "a"}};
  setup.config.data = "";
  CHECK(setup.prepare().train->size() == 1);
  setup.config.hf_dataset["path"] = "no such/place";
  CHECK_THROWS_AS(setup.prepare(), ConfigError);
}

TEST_CASE("compat mlx-lm: rows go in order of their number of fields, as mlx-lm takes it for length") {
  Setup setup;
  setup.write("train.jsonl",
              "{\"text\": \"longer text\", \"n\": 1}\n{\"text\": \"b\"}\n{\"text\": \"c\", \"n\": "
              "1}\n{\"text\": \"d\"}\n");
  setup.config.compat = "mlx-lm";
  for (int start = 0; start < 2; ++start) { // made, then read
    const auto prepared = setup.prepare();
    REQUIRE(prepared.train->size() == 4);
    CHECK(prepared.train->line(0) == 2);
    CHECK(prepared.train->line(1) == 4);
    CHECK(prepared.train->line(2) == 1);
    CHECK(prepared.train->line(3) == 3);
  }
}

TEST_CASE("one split is prepared for evaluation") {
  Setup setup;
  setup.write("train.jsonl", rows(3));
  setup.write("valid.jsonl", rows(2));
  const auto prepare = [&](const fs::path& path, const std::string& split) {
    return prepare_split(path, split, setup.config, setup.tokenizer, 266);
  };
  CHECK(prepare(setup.config.data, "").data->size() == 2);
  CHECK(prepare(setup.config.data, "train").report.split == "train");
  CHECK(prepare(fs::path(setup.config.data) / "train.jsonl", "").data->size() == 3);
  CHECK_THROWS_AS(prepare(setup.config.data, "test"), DataError);
}
