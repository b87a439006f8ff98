#include "temper/data/data_check.h"

#include <algorithm>
#include <limits>
#include <unordered_map>

#include <fmt/format.h>

#include "temper/data/data_options.h"
#include "temper/data/find_splits.h"
#include "temper/data/prepared_data.h"
#include "temper/data/row_source.h"
#include "temper/data/tokenize.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kShownPairs = 10;
constexpr int kBarWidth = 40;

struct SeenRow {
  std::uint32_t split;
  std::uint32_t file; // of all that were read
  std::int64_t line;
};

// Reads rows without tokens, and remembers what they say.
class RowScan {
 public:
  explicit RowScan(const FormatOptions& options) : options_(options) {
  }

  SplitReport scan(const std::vector<fs::path>& files, const std::string& split) {
    splits_.push_back(split);
    std::vector<SplitReport> reports;
    for (const auto& file : files) {
      files_.push_back(files.size() > 1 ? file.string() : "");
      reports.push_back(scan_file(file, split));
    }
    return join_reports(std::move(reports), describe_files(files));
  }

  std::vector<Duplicates> duplicates;

 private:
  SplitReport scan_file(const fs::path& path, const std::string& split) {
    SplitReport report;
    const auto format = choose_format(path, options_);
    report.split = split;
    report.path = path.string();
    report.format = to_string(format);
    report.format_detected = options_.data_format == "auto" && format != RowFormat::template_;
    const auto source = open_rows(path, options_.text_feature);
    RawRow raw;
    while (source->next(raw)) {
      ++report.rows;
      try {
        compare(record_hash(read_record_as(source->parse(raw), format, options_)), raw.line);
        ++report.examples;
      } catch (const RowError& error) {
        report.bad.add(raw.line, error.what());
      }
    }
    return report;
  }

  void compare(std::uint64_t hash, std::int64_t line) {
    const auto here = static_cast<std::uint32_t>(splits_.size() - 1);
    const auto file = static_cast<std::uint32_t>(files_.size() - 1);
    const auto [seen, is_new] = seen_.try_emplace(hash, SeenRow{here, file, line});
    if (is_new) {
      return;
    }
    const std::string& before = splits_[seen->second.split];
    auto found = std::ranges::find_if(
        duplicates, [&](const auto& known) { return known.split == splits_[here] && known.before == before; });
    if (found == duplicates.end()) {
      duplicates.push_back({splits_[here], before, 0, {}});
      found = duplicates.end() - 1;
    }
    ++found->count;
    if (found->first.size() < kShownPairs) {
      const SeenRow& earlier = seen->second;
      found->first.push_back({{files_.back(), line}, {files_[earlier.file], earlier.line}});
    }
  }

  const FormatOptions& options_;
  std::vector<std::string> splits_;
  std::vector<std::string> files_;
  std::unordered_map<std::uint64_t, SeenRow> seen_;
};

std::string histogram(const SplitReport& report, int max_seq_length) {
  std::string text = "  tokens a row\n";
  const auto most = *std::ranges::max_element(report.lengths);
  for (std::size_t bin = 0; bin < report.lengths.size(); ++bin) {
    const auto count = report.lengths[bin];
    const std::int64_t high = std::int64_t{1} << bin;
    const std::int64_t low = bin == 0 ? 1 : high / 2 + 1;
    if (count > 0) {
      const auto width = static_cast<std::size_t>((count * kBarWidth + most - 1) / most);
      text +=
          fmt::format("  {:>7}-{:<7} {:>9}  {}{}\n", low, high, with_commas(count), std::string(width, '#'),
                      high > max_seq_length ? "  (max_seq_length " + std::to_string(max_seq_length) + ")" : "");
    }
  }
  return text;
}

std::string problem_lines(const SplitReport& report) {
  std::string text;
  for (const auto& problem : report.bad.first) {
    text += fmt::format("  {}:{}: {}\n", problem.file.empty() ? report.path : problem.file, problem.line,
                        problem.what);
  }
  const auto more = report.bad.count - static_cast<std::int64_t>(report.bad.first.size());
  return text + (more > 0 ? fmt::format("  and {} more malformed rows\n", with_commas(more)) : "");
}

std::string shown(const Duplicates::Place& place) {
  return place.file.empty() ? fmt::format("line {}", place.line) : fmt::format("{}:{}", place.file, place.line);
}

} // namespace

bool DataCheck::has_bad_rows() const {
  return std::ranges::any_of(splits, [](const auto& split) { return split.bad.count > 0; });
}

Json DataCheck::to_json() const {
  Json json{{"splits", Json::array()}, {"duplicates", Json::array()}};
  for (const auto& split : splits) {
    json["splits"].push_back(split.to_json());
  }
  for (const auto& found : duplicates) {
    Json lines = Json::array();
    for (const auto& [later, earlier] : found.first) {
      lines.push_back({{"line", later.line}, {"earlier_line", earlier.line}});
      if (!later.file.empty()) {
        lines.back()["file"] = later.file;
      }
      if (!earlier.file.empty()) {
        lines.back()["earlier_file"] = earlier.file;
      }
    }
    json["duplicates"].push_back(
        {{"split", found.split}, {"earlier_split", found.before}, {"count", found.count}, {"first", lines}});
  }
  return json;
}

std::string DataCheck::to_text() const {
  std::string text;
  for (const auto& split : splits) {
    if (!tokenized) {
      text += fmt::format("{}: {} ({}{}), {} rows, {} malformed\n", split.split, split.path, split.format,
                          split.format_detected ? ", detected" : "", with_commas(split.rows),
                          with_commas(split.bad.count));
    } else {
      text += split.summary() + "\n";
      for (const auto& line : split.warnings()) {
        text += "  " + line + "\n";
      }
      if (!split.lengths.empty()) {
        text += histogram(split, max_seq_length);
      }
    }
    text += problem_lines(split);
  }
  for (const auto& found : duplicates) {
    const auto later = shown(found.first.front().first);
    const auto earlier = shown(found.first.front().second);
    text += found.split == found.before
                ? fmt::format("{}: {} rows repeat an earlier one ({} repeats {})\n", found.split,
                              with_commas(found.count), later, earlier)
                : fmt::format("{}: {} rows are in {} as well ({} is {} there)\n", found.split,
                              with_commas(found.count), found.before, later, earlier);
  }
  if (duplicates.empty()) {
    text += "no row comes twice\n";
  }
  return text;
}

DataCheck check_data(const RunConfig& given, const std::shared_ptr<const Tokenizer>& tokenizer,
                     int model_vocab_size) {
  RunConfig config = given;
  config.on_bad_row = "skip";
  config.max_bad_rows = std::numeric_limits<int>::max();
  const auto options = data_options(config);
  const auto files = find_splits(config.data);
  DataCheck check;
  check.tokenized = tokenizer != nullptr;
  check.max_seq_length = config.max_seq_length;
  RowScan scan(options.format);
  for (const char* split : {"train", "valid", "test"}) {
    if (files.of(split).empty()) {
      continue;
    }
    check.splits.push_back(scan.scan(files.of(split), split));
    if (tokenizer) {
      check.splits.back() = prepare_split(config.data, split, config, tokenizer, model_vocab_size).report;
    }
  }
  check.duplicates = std::move(scan.duplicates);
  return check;
}

} // namespace temper
