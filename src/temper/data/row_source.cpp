#include "temper/data/row_source.h"

#include <algorithm>
#include <array>
#include <utility>

#include <simdjson.h>

#include "temper/base/error.h"
#include "temper/base/files.h"
#include "temper/base/passed_pages.h"
#include "temper/base/text.h"
#include "temper/data/delimited_rows.h"
#include "temper/data/parquet_rows.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

bool is_blank(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; });
}

Json to_json(simdjson::dom::element element) {
  using simdjson::dom::element_type;
  switch (element.type()) {
    case element_type::OBJECT: {
      Json object = Json::object();
      for (const auto field : simdjson::dom::object(element)) {
        object[std::string(field.key)] = to_json(field.value);
      }
      return object;
    }
    case element_type::ARRAY: {
      Json array = Json::array();
      for (const auto item : simdjson::dom::array(element)) {
        array.push_back(to_json(item));
      }
      return array;
    }
    case element_type::STRING:
      return std::string(std::string_view(element));
    case element_type::INT64:
      return std::int64_t(element);
    case element_type::UINT64:
      return std::uint64_t(element);
    case element_type::DOUBLE:
      return double(element);
    case element_type::BOOL:
      return bool(element);
    case element_type::NULL_VALUE:
      break;
  }
  return nullptr;
}

const char* type_name(const Json& value) {
  return value.is_array()     ? "an array"
         : value.is_string()  ? "a string"
         : value.is_number()  ? "a number"
         : value.is_boolean() ? "a boolean"
                              : "null";
}

// The slower parser: takes numbers beyond 64 bits, and knows the column of an error.
Json parse_slowly(std::string_view text) {
  try {
    return Json::parse(text);
  } catch (const Json::parse_error& error) {
    if (!simdjson::validate_utf8(text.data(), text.size())) {
      throw RowError("invalid UTF-8");
    }
    throw RowError("not JSON (at column " + std::to_string(error.byte) + ")");
  } catch (const Json::exception& error) {
    throw RowError(std::string("not JSON: ") + error.what());
  }
}

Json parse_value(std::string_view text) {
  thread_local simdjson::dom::parser parser;
  simdjson::dom::element element;
  const auto error = parser.parse(text.data(), text.size()).get(element);
  if (error == simdjson::SUCCESS) {
    return to_json(element);
  }
  if (error == simdjson::DEPTH_ERROR) {
    throw RowError("nested too deeply");
  }
  return parse_slowly(text);
}

class Lines {
 public:
  explicit Lines(std::string_view text) : text_(text), rest_(text), passed_(text) {
  }
  bool next(RawRow& row) {
    passed_.reached(text_.size() - rest_.size());
    while (!rest_.empty()) {
      const auto end = std::min(rest_.find('\n'), rest_.size());
      auto line = rest_.substr(0, end);
      rest_.remove_prefix(std::min(end + 1, rest_.size()));
      ++line_;
      if (!line.empty() && line.back() == '\r') {
        line.remove_suffix(1);
      }
      if (!is_blank(line)) {
        row = {line_, line, nullptr};
        return true;
      }
    }
    return false;
  }

 private:
  std::string_view text_;
  std::string_view rest_;
  PassedPages passed_;
  std::int64_t line_ = 0;
};

class JsonLinesSource : public RowSource {
 public:
  JsonLinesSource(MappedFile file, std::size_t skip)
      : file_(std::move(file)), lines_(file_.text().substr(skip)) {
  }
  bool next(RawRow& row) override {
    return lines_.next(row);
  }
  Json parse(const RawRow& row) const override {
    return parse_row(row.text);
  }

 private:
  MappedFile file_;
  Lines lines_;
};

class TextSource : public RowSource {
 public:
  TextSource(MappedFile file, std::size_t skip, std::string key)
      : file_(std::move(file)), lines_(file_.text().substr(skip)), key_(std::move(key)) {
  }
  bool next(RawRow& row) override {
    return lines_.next(row);
  }
  Json parse(const RawRow& row) const override {
    if (!simdjson::validate_utf8(row.text.data(), row.text.size())) {
      throw RowError("invalid UTF-8");
    }
    return {{key_, std::string(row.text)}};
  }

 private:
  MappedFile file_;
  Lines lines_;
  std::string key_;
};

// The elements of a top-level array, found by counting brackets outside strings: no tree of the whole file.
class JsonArraySource : public RowSource {
 public:
  JsonArraySource(MappedFile file, std::size_t begin)
      : file_(std::move(file)), text_(file_.text()), passed_(text_), at_(begin + 1) {
    line_ += std::count(text_.begin(), text_.begin() + static_cast<std::ptrdiff_t>(begin), '\n');
  }

  bool next(RawRow& row) override {
    if (ended_) {
      return false;
    }
    passed_.reached(at_);
    skip_separators();
    if (ended_) { // what follows the array is one row, which parse() refuses
      row = {line_, text_.substr(at_), nullptr};
      return !is_blank(row.text.substr(1));
    }
    if (at_ >= text_.size()) {
      ended_ = true;
      row = {line_, {}, nullptr};
      return true; // an empty row, which parse() refuses as well
    }
    row.line = line_;
    const auto begin = at_;
    skip_value();
    row.text = text_.substr(begin, at_ - begin);
    return true;
  }

  Json parse(const RawRow& row) const override {
    if (row.text.empty()) {
      throw RowError("the file ends before the array's closing ]");
    }
    return parse_row(row.text);
  }

 private:
  void skip_separators() {
    for (; at_ < text_.size(); ++at_) {
      const char c = text_[at_];
      ended_ = c == ']';
      if (ended_ || (c != ',' && !is_blank(text_.substr(at_, 1)))) {
        return;
      }
      line_ += c == '\n' ? 1 : 0;
    }
  }

  void skip_value() {
    int depth = 0;
    bool quoted = false;
    for (; at_ < text_.size(); ++at_) {
      const char c = text_[at_];
      line_ += c == '\n' ? 1 : 0;
      if (quoted) {
        at_ += c == '\\' ? 1 : 0;
        quoted = c != '"';
      } else if (c == '"') {
        quoted = true;
      } else if (c == '{' || c == '[') {
        ++depth;
      } else if (depth == 0 && (c == ',' || c == ']')) {
        return;
      } else if (c == '}' || c == ']') {
        --depth;
      }
    }
    at_ = text_.size(); // an escape at the very end may have stepped beyond it
  }

  MappedFile file_;
  std::string_view text_;
  PassedPages passed_;
  std::size_t at_;
  std::int64_t line_ = 1;
  bool ended_ = false;
};

class SeveralFiles : public RowSource {
 public:
  SeveralFiles(std::vector<fs::path> paths, std::string text_key)
      : paths_(std::move(paths)), text_key_(std::move(text_key)), sources_(paths_.size()) {
  }
  bool next(RawRow& row) override {
    for (; at_ < paths_.size(); ++at_) {
      if (sources_[at_] == nullptr) {
        sources_[at_] = open_rows(paths_[at_], text_key_);
      }
      if (sources_[at_]->next(row)) {
        row.file = at_;
        return true;
      }
    }
    return false;
  }
  Json parse(const RawRow& row) const override {
    return sources_[row.file]->parse(row);
  }

 private:
  std::vector<fs::path> paths_;
  std::string text_key_;
  std::vector<std::unique_ptr<RowSource>> sources_;
  std::size_t at_ = 0;
};

std::string extension_of(const fs::path& path) {
  return lower(path.extension().string());
}

constexpr std::array<std::string_view, 7> kExtensions = {".jsonl", ".ndjson", ".json",   ".csv",
                                                         ".tsv",   ".txt",    ".parquet"};

// Bytes of a byte order mark to skip. Throws DataError for UTF-16 and for a file without content.
std::size_t check_start(std::string_view text, const fs::path& path) {
  if (text.starts_with("\xff\xfe") || text.starts_with("\xfe\xff")) {
    throw DataError(path.string() + ": the file is UTF-16; save it as UTF-8");
  }
  const std::size_t skip = text.starts_with("\xef\xbb\xbf") ? 3 : 0;
  const auto probe = text.substr(skip, 4096);
  if (is_blank(probe) && (text.size() <= skip + probe.size() || is_blank(text.substr(skip)))) {
    throw DataError(path.string() + ": the file is empty; it needs at least one row");
  }
  return skip;
}

} // namespace

bool is_data_file(const fs::path& path) {
  return std::ranges::find(kExtensions, extension_of(path)) != kExtensions.end();
}

Json parse_row(std::string_view text) {
  Json row = parse_value(text);
  if (!row.is_object()) {
    throw RowError(std::string("a row must be a JSON object, this is ") + type_name(row));
  }
  return row;
}

std::unique_ptr<RowSource> open_rows(const std::vector<fs::path>& paths, const std::string& text_key) {
  return std::make_unique<SeveralFiles>(paths, text_key);
}

std::unique_ptr<RowSource> open_rows(const fs::path& path, const std::string& text_key) {
  const auto extension = extension_of(path);
  if (!is_data_file(path)) {
    throw DataError(path.string() +
                    ": unknown kind of data file; use .jsonl, .json, .csv, .tsv, .txt or .parquet");
  }
  if (extension == ".parquet") {
    return open_parquet_rows(path);
  }
  MappedFile file(path);
  const auto text = file.text();
  const auto skip = check_start(text, path);
  if (extension == ".txt") {
    return std::make_unique<TextSource>(std::move(file), skip, text_key);
  }
  if (extension == ".csv" || extension == ".tsv") {
    return open_delimited_rows(std::move(file), skip, extension == ".csv" ? ',' : '\t', path);
  }
  const auto begin = text.find_first_not_of(" \t\r\n", skip);
  if (extension == ".json" && text[begin] == '[') {
    return std::make_unique<JsonArraySource>(std::move(file), begin);
  }
  return std::make_unique<JsonLinesSource>(std::move(file), skip);
}

} // namespace temper
