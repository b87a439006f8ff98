#include "temper/infer/answer_file.h"

#include <doctest/doctest.h>

#include <fstream>

#include "infer/tiny.h"
#include "temper/base/error.h"
#include "temper/base/files.h"

using namespace temper;
using namespace temper::test;

namespace fs = std::filesystem;

namespace {

void append(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::app) << bytes;
}

} // namespace

TEST_CASE("answers come out in the prompts' order, whatever order they were finished in") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "answers.jsonl";
  AnswerFile file(path, "run", 3, false);
  file.add(2, {{"text", "c"}});
  file.add(0, {{"text", "a\nb"}});
  CHECK(!fs::exists(path));
  file.add(1, {{"text", "b"}});
  CHECK(file.num_answers() == 3);
  file.finish();
  CHECK(read_file(path) == "{\"text\":\"a\\nb\"}\n{\"text\":\"b\"}\n{\"text\":\"c\"}\n");
  CHECK(!fs::exists(AnswerFile::partial_path(path)));
}

TEST_CASE("a run cut short at any byte goes on with its whole answers") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "answers.jsonl";
  const auto partial = AnswerFile::partial_path(path);
  {
    AnswerFile file(path, "run", 3, false);
    file.add(1, {{"text", "one"}});
    file.add(0, {{"text", "zero"}});
  }
  const auto whole = read_file(partial);
  const auto header = whole.find('\n') + 1;
  const auto first = whole.find('\n', header) + 1;
  for (std::size_t size = 0; size <= whole.size(); ++size) {
    CAPTURE(size);
    write_file_atomic(partial, std::string_view(whole).substr(0, size));
    AnswerFile file(path, "run", 3, true);
    CHECK(file.num_answers() == (size < first ? 0 : size < whole.size() ? 1 : 2));
    CHECK(file.has(1) == (size >= first));
    for (std::size_t i = 0; i < 3; ++i) {
      if (!file.has(i)) {
        file.add(i, {{"text", std::to_string(i)}});
      }
    }
    file.finish();
    const auto text = read_file(path);
    CHECK(std::count(text.begin(), text.end(), '\n') == 3);
    CHECK(text.ends_with("{\"text\":\"2\"}\n"));
  }
}

TEST_CASE("answers of an earlier run are neither lost nor mixed up") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "answers.jsonl";
  const auto partial = AnswerFile::partial_path(path);
  {
    AnswerFile file(path, "run", 2, false);
    file.add(1, {{"text", "one"}});
  }
  CHECK_THROWS_WITH_AS(
      AnswerFile(path, "run", 2, false),
      (partial.string() + ": answers of a run that was cut short; --resume goes on with them, or "
                          "remove the file to begin anew")
          .c_str(),
      ConfigError);
  CHECK_THROWS_WITH_AS(
      AnswerFile(path, "another", 2, true),
      (partial.string() + ": answers to other prompts, of another model or with other settings; "
                          "remove the file to begin anew")
          .c_str(),
      ConfigError);
  append(partial, "not JSON\n{\"index\":\"1\",\"answer\":{}}\n{\"index\":7,\"answer\":{}}\n");
  AnswerFile file(path, "run", 2, true);
  CHECK(file.num_answers() == 1);
  write_file_atomic(partial, std::string_view("notes of mine\n"));
  CHECK_THROWS_AS(AnswerFile(path, "run", 2, true), ConfigError);
  CHECK(read_file(partial) == "notes of mine\n");
  CHECK_THROWS_AS(AnswerFile(folder.path() / "no" / "where.jsonl", "run", 2, true), IoError);
}

TEST_CASE("a run without an answer leaves nothing behind") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "answers.jsonl";
  { const AnswerFile file(path, "run", 2, false); }
  CHECK(fs::is_empty(folder.path()));
}
