#include "temper/data/delimited_rows.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <simdjson.h>

#include "temper/base/error.h"
#include "temper/base/passed_pages.h"

namespace temper {
namespace {

struct Record {
  std::size_t end = 0; // after its line end
  std::size_t text_end = 0;
  bool closed = true; // false: a quoted field runs to the end of the file
};

// Where the record that starts at `begin` ends; its fields go to `fields` unless that is null.
Record scan_record(std::string_view text, std::size_t begin, char delimiter, std::vector<std::string>* fields) {
  std::string field;
  bool quoted = false;
  bool at_start = true;
  std::size_t at = begin;
  const auto finish_field = [&] {
    if (fields != nullptr) {
      fields->push_back(std::exchange(field, {}));
    }
    at_start = true;
  };
  for (; at < text.size(); ++at) {
    const char c = text[at];
    if (quoted && c == '"') {
      const bool doubled = at + 1 < text.size() && text[at + 1] == '"';
      quoted = doubled;
      if (doubled) {
        ++at;
      } else {
        continue;
      }
    } else if (!quoted && c == '"' && at_start) {
      quoted = true;
      at_start = false;
      continue;
    } else if (!quoted && c == delimiter) {
      finish_field();
      continue;
    } else if (!quoted && (c == '\n' || (c == '\r' && at + 1 < text.size() && text[at + 1] == '\n'))) {
      finish_field();
      return {at + (c == '\r' ? 2 : 1), at, true};
    }
    at_start = false;
    if (fields != nullptr) {
      field.push_back(c);
    }
  }
  finish_field();
  return {at, at, !quoted};
}

class DelimitedSource : public RowSource {
 public:
  DelimitedSource(MappedFile file, std::size_t skip, char delimiter, const std::filesystem::path& path)
      : file_(std::move(file)), text_(file_.text()), passed_(text_), at_(skip), delimiter_(delimiter) {
    RawRow header;
    next(header);
    scan_record(header.text, 0, delimiter_, &names_);
    auto sorted = names_;
    std::ranges::sort(sorted);
    if (std::ranges::adjacent_find(sorted) != sorted.end() || sorted.front().empty()) {
      throw DataError(path.string() + ":" + std::to_string(header.line) +
                      ": the first line must name the columns, each name once");
    }
    auto probe = at_;
    while (probe < text_.size() && (text_[probe] == '\n' || text_[probe] == '\r')) {
      ++probe;
    }
    if (probe == text_.size()) {
      throw DataError(path.string() + ": the file has column names but no rows");
    }
  }

  bool next(RawRow& row) override {
    passed_.reached(at_);
    while (at_ < text_.size()) {
      const auto begin = at_;
      const auto record = scan_record(text_, begin, delimiter_, nullptr);
      const auto line = line_;
      line_ += std::count(text_.begin() + static_cast<std::ptrdiff_t>(begin),
                          text_.begin() + static_cast<std::ptrdiff_t>(record.end), '\n');
      at_ = record.end;
      row = {line, text_.substr(begin, record.text_end - begin), nullptr};
      if (!row.text.empty() && row.text != "\r") {
        return true;
      }
    }
    return false;
  }

  Json parse(const RawRow& row) const override {
    if (!simdjson::validate_utf8(row.text.data(), row.text.size())) {
      throw RowError("invalid UTF-8");
    }
    std::vector<std::string> fields;
    if (!scan_record(row.text, 0, delimiter_, &fields).closed) {
      throw RowError("a quoted field is not closed");
    }
    if (fields.size() != names_.size()) {
      throw RowError(std::to_string(fields.size()) + " fields where the first line names " +
                     std::to_string(names_.size()) + " columns");
    }
    Json object = Json::object();
    for (std::size_t i = 0; i < fields.size(); ++i) {
      object[names_[i]] = std::move(fields[i]);
    }
    return object;
  }

 private:
  MappedFile file_;
  std::string_view text_;
  PassedPages passed_;
  std::size_t at_;
  char delimiter_;
  std::int64_t line_ = 1;
  std::vector<std::string> names_;
};

} // namespace

std::unique_ptr<RowSource> open_delimited_rows(MappedFile file, std::size_t skip, char delimiter,
                                               const std::filesystem::path& path) {
  return std::make_unique<DelimitedSource>(std::move(file), skip, delimiter, path);
}

} // namespace temper
