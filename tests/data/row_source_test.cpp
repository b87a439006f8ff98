#include "temper/data/row_source.h"

#include <doctest/doctest.h>

#include <fstream>
#include <string>
#include <vector>

#include "base/messages.h"
#include "temper/base/error.h"
#include "text/fixtures.h"

using namespace temper;
using temper::test::contains;
using temper::test::TempFolder;

namespace {

struct Row {
  std::int64_t line = 0;
  Json value;        // null if it is malformed
  std::string error; // then
};

std::vector<Row> read_all(const TempFolder& folder, const std::string& name, const std::string& content) {
  folder.write(name, content);
  const auto source = open_rows(folder.path() / name);
  std::vector<Row> rows;
  RawRow raw;
  while (source->next(raw)) {
    try {
      rows.push_back({raw.line, source->parse(raw), ""});
    } catch (const RowError& error) {
      rows.push_back({raw.line, nullptr, error.what()});
    }
  }
  return rows;
}

bool refused(const TempFolder& folder, const std::string& name, const std::string& content,
             const std::string& reason) {
  try {
    read_all(folder, name, content);
  } catch (const DataError& error) {
    return std::string(error.what()).find(reason) != std::string::npos &&
           std::string(error.what()).find(name) != std::string::npos;
  }
  return false;
}

} // namespace

TEST_CASE("JSON Lines: byte order mark, CRLF, blank lines, no newline at the end") {
  const TempFolder folder;
  const auto rows = read_all(folder, "a.jsonl",
                             "\xef\xbb\xbf{\"text\": \"a\"}\r\n\r\n  \n{\"text\": \"b\"}\n{\"text\": \"c\"}");
  REQUIRE(rows.size() == 3);
  CHECK(rows[0].value["text"] == "a");
  CHECK(rows[1].line == 4);
  CHECK(rows[2].line == 5);
  CHECK(rows[2].value["text"] == "c");
}

TEST_CASE("JSON Lines: what is malformed says why, the rest is read") {
  const TempFolder folder;
  const auto rows = read_all(folder, "a.jsonl",
                             "{\"text\": \"a\"}\n"
                             "{\"text\": \"a\"\n"
                             "[1, 2]\n"
                             "\"text\"\n"
                             "{\"text\": \"\xff\xfe\"}\n"
                             "{\"text\": \"a\"} {\"text\": \"b\"}\n"
                             "null\n"
                             "{\"text\": \"z\"}\n");
  REQUIRE(rows.size() == 8);
  CHECK(rows[1].error.find("not JSON") == 0);
  CHECK(rows[2].error == "a row must be a JSON object, this is an array");
  CHECK(rows[3].error == "a row must be a JSON object, this is a string");
  CHECK(rows[4].error == "invalid UTF-8");
  CHECK(rows[5].error.find("not JSON") == 0);
  CHECK(rows[6].error == "a row must be a JSON object, this is null");
  CHECK(rows[7].value["text"] == "z");
}

TEST_CASE("values of every type arrive, keys in order, numbers beyond 64 bits too") {
  const auto row = parse_row(
      R"({"z": 1, "a": [true, null, -2, 1.5], "o": {"k": "\u00e9\n"}, "big": 123456789012345678901234567890})");
  CHECK(row.begin().key() == "z");
  CHECK(row["a"] == Json::parse("[true, null, -2, 1.5]"));
  CHECK(row["o"]["k"] == "é\n");
  CHECK(row["big"].get<double>() == doctest::Approx(1.2345678901234568e29));
  CHECK_THROWS_AS(parse_row("{\"a\": " + std::string(3000, '[') + std::string(3000, ']') + "}"), RowError);
}

TEST_CASE("a line of 10 MB is a row") {
  const TempFolder folder;
  const std::string long_text(10 << 20, 'x');
  const auto rows = read_all(folder, "a.jsonl", "{\"text\": \"" + long_text + "\"}\n{\"text\": \"b\"}\n");
  REQUIRE(rows.size() == 2);
  CHECK(rows[0].value["text"].get_ref<const std::string&>().size() == long_text.size());
}

TEST_CASE("a JSON array: each element a row, at its line") {
  const TempFolder folder;
  const auto rows = read_all(folder, "a.json",
                             "\n[\n  {\n    \"text\": \"a ] } \\\" , [\"\n  },\n  {\"text\": \"b\"}, 7\n]\n");
  REQUIRE(rows.size() == 3);
  CHECK(rows[0].value["text"] == "a ] } \" , [");
  CHECK(rows[0].line == 3);
  CHECK(rows[1].line == 6);
  CHECK(rows[2].error.find("this is a number") != std::string::npos);
  CHECK(read_all(folder, "e.json", "[]").empty());
}

TEST_CASE("a JSON array that breaks off or goes on is noticed") {
  const TempFolder folder;
  const auto open = read_all(folder, "a.json", "[{\"text\": \"a\"},\n");
  REQUIRE(open.size() == 2);
  CHECK(open[1].error.find("closing ]") != std::string::npos);
  const auto cut = read_all(folder, "b.json", "[{\"text\": \"a\"}, {\"text\": \"b\\");
  REQUIRE(cut.size() == 3);
  CHECK(cut[1].error.find("not JSON") == 0);
  const auto more = read_all(folder, "c.json", "[{\"text\": \"a\"}]\n[{\"text\": \"b\"}]");
  REQUIRE(more.size() == 2);
  CHECK(more[1].error.find("not JSON") == 0);
}

TEST_CASE("a .json file may hold JSON Lines") {
  const TempFolder folder;
  CHECK(read_all(folder, "a.json", "{\"text\": \"a\"}\n{\"text\": \"b\"}\n").size() == 2);
}

TEST_CASE("CSV: quotes, doubled quotes, delimiters and newlines within them") {
  const TempFolder folder;
  const auto rows = read_all(folder, "a.csv",
                             "\xef\xbb\xbfprompt,completion\r\n"
                             "\"a, \"\"b\"\"\r\nc\",d\r\n"
                             "\r\n"
                             "e,\n"
                             "6\" nails,g");
  REQUIRE(rows.size() == 3);
  CHECK(rows[0].value == Json{{"prompt", "a, \"b\"\r\nc"}, {"completion", "d"}});
  CHECK(rows[1].value == Json{{"prompt", "e"}, {"completion", ""}});
  CHECK(rows[1].line == 5);
  CHECK(rows[2].value["prompt"] == "6\" nails");
}

TEST_CASE("CSV: wrong numbers of fields, an open quote and bad UTF-8 are the row's fault") {
  const TempFolder folder;
  const auto rows = read_all(folder, "a.csv", "a,b\n1\n1,2,3\n\xff,2\n1,\"2\n3\n");
  REQUIRE(rows.size() == 4);
  CHECK(rows[0].error == "1 fields where the first line names 2 columns");
  CHECK(rows[1].error == "3 fields where the first line names 2 columns");
  CHECK(rows[2].error == "invalid UTF-8");
  CHECK(rows[3].error == "a quoted field is not closed");
}

TEST_CASE("TSV and plain text") {
  const TempFolder folder;
  const auto tsv = read_all(folder, "a.tsv", "prompt\tcompletion\na, b\tc\n");
  REQUIRE(tsv.size() == 1);
  CHECK(tsv[0].value["prompt"] == "a, b");
  const auto text = read_all(folder, "a.txt", "first\n\nsecond\r\n\xff\n");
  REQUIRE(text.size() == 3);
  CHECK(text[1].value["text"] == "second");
  CHECK(text[1].line == 3);
  CHECK(text[2].error == "invalid UTF-8");
}

TEST_CASE("files that can't hold rows are refused by name") {
  const TempFolder folder;
  CHECK(refused(folder, "a.jsonl", "", "empty"));
  CHECK(refused(folder, "b.jsonl", "\xef\xbb\xbf \n\n", "empty"));
  CHECK(refused(folder, "c.jsonl", std::string("\xff\xfe{\0", 4), "UTF-16"));
  CHECK(refused(folder, "d.xlsx", "x", "unknown kind"));
  CHECK(refused(folder, "e.csv", "a,b\n", "no rows"));
  CHECK(refused(folder, "f.csv", "a,a\n1,2\n", "name the columns"));
  CHECK(refused(folder, "g.csv", "a,\n1,2\n", "name the columns"));
  CHECK_THROWS_AS(open_rows(folder.path() / "absent.jsonl"), IoError);
}

namespace {

std::filesystem::path parquet(const std::string& name) {
  return std::filesystem::path(TEMPER_TEST_DATA) / "parquet" / name;
}

// Without members that are null, at every depth but the first.
Json without_inner_nulls(const Json& value, bool is_row = true) {
  if (value.is_array()) {
    Json items = Json::array();
    for (const auto& item : value) {
      items.push_back(without_inner_nulls(item, false));
    }
    return items;
  }
  if (!value.is_object()) {
    return value;
  }
  Json object = Json::object();
  for (const auto& [key, member] : value.items()) {
    if (is_row || !member.is_null()) {
      object[key] = without_inner_nulls(member, false);
    }
  }
  return object;
}

std::string refusal(const std::filesystem::path& path) {
  try {
    const auto source = open_rows(path);
    RawRow raw;
    while (source->next(raw)) {
      source->parse(raw);
    }
  } catch (const DataError& error) {
    return error.what();
  }
  return "";
}

} // namespace

TEST_CASE("Parquet: each codec, nested messages, nulls and dictionaries give pyarrow's rows") {
  std::vector<Json> wanted;
  const auto expected = open_rows(parquet("rows.jsonl"));
  RawRow raw;
  while (expected->next(raw)) {
    wanted.push_back(without_inner_nulls(expected->parse(raw)));
  }
  REQUIRE(wanted.size() == 50);
  for (const char* name : {"snappy", "gzip", "zstd", "none", "pages_v2"}) {
    CAPTURE(name);
    const auto source = open_rows(parquet(std::string(name) + ".parquet"));
    std::vector<RawRow> rows;
    while (source->next(raw)) {
      rows.push_back(raw);
    }
    REQUIRE(rows.size() == wanted.size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      CHECK(rows[i].line == static_cast<std::int64_t>(i) + 1);
      CHECK(source->parse(rows[i]) == wanted[i]);
    }
  }
}

TEST_CASE("Parquet that can't be read is named and said") {
  CHECK(contains(refusal(parquet("lz4.parquet")), "only snappy, gzip and zstd are read"));
  CHECK(contains(refusal(parquet("empty.parquet")), "the file is empty"));
  const TempFolder folder;
  const auto whole = read_file(parquet("zstd.parquet"));
  folder.write("cut.parquet", whole.substr(0, whole.size() / 2));
  CHECK(contains(refusal(folder.path() / "cut.parquet"), "cut.parquet: the file is cut short"));
  folder.write("text.parquet", "{\"text\": \"this is JSON\"}\n");
  CHECK(contains(refusal(folder.path() / "text.parquet"), "not a Parquet file"));
  folder.write("short.parquet", "PAR1");
  CHECK(contains(refusal(folder.path() / "short.parquet"), "not a Parquet file"));
  auto long_footer = whole;
  long_footer.replace(whole.size() - 8, 4, "\xff\xff\xff\x7f");
  folder.write("footer.parquet", long_footer);
  CHECK(contains(refusal(folder.path() / "footer.parquet"), "footer.parquet: "));
  auto bad_page = whole;
  bad_page.replace(60, 200, std::string(200, '\x5a'));
  folder.write("page.parquet", bad_page);
  CHECK(
      contains(refusal(folder.path() / "page.parquet"), "page.parquet:1: the rows from here on can't be read"));
}

TEST_CASE("Parquet with any one byte wrong is read or refused") {
  const TempFolder folder;
  for (const char* name : {"zstd.parquet", "pages_v2.parquet"}) {
    const auto whole = read_file(parquet(name));
    for (std::size_t at = 0; at < whole.size(); at += 3) {
      auto spoilt = whole;
      spoilt[at] = static_cast<char>(spoilt[at] ^ (at % 2 == 0 ? 0xff : 0x40));
      std::ofstream(folder.path() / "spoilt.parquet", std::ios::binary) << spoilt;
      const auto said = refusal(folder.path() / "spoilt.parquet");
      CHECK(said.find('\n') == std::string::npos);
      CHECK(said.find("internal error") == std::string::npos);
    }
  }
}
