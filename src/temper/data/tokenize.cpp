#include "temper/data/tokenize.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <future>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "temper/base/clock.h"
#include "temper/base/error.h"
#include "temper/base/log.h"
#include "temper/data/row_source.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kChunkRows = 256;
constexpr std::size_t kChunkBytes = 1 << 20;
constexpr int kProbedRows = 1000; // of which one must show a known format

// A row's way: an encoded example, or why there is none.
struct Outcome {
  std::int64_t line = 0;
  std::size_t num_fields = 0;
  EncodedRow row;
  std::optional<std::string> problem;
};

class Tokenization {
 public:
  Tokenization(const fs::path& path, std::shared_ptr<const Tokenizer> tokenizer, const DataOptions& options,
               const ExampleSink& sink)
      : options_(options),
        sink_(sink),
        encoder_(std::move(tokenizer), options.encode),
        format_(choose_format(path, options.format)),
        source_(open_rows(path, options.format.text_feature)) {
    report_.path = path.string();
    report_.format = to_string(format_);
    report_.format_detected = options.format.data_format == "auto" && format_ != RowFormat::template_;
  }

  SplitReport run() {
    const Stopwatch watch;
    const std::size_t limit = 2 * std::max(1U, std::thread::hardware_concurrency());
    std::deque<std::future<std::vector<Outcome>>> pending;
    auto chunk = next_chunk();
    while (!chunk.empty() || !pending.empty()) {
      if (!chunk.empty() && pending.size() < limit) {
        pending.push_back(
            std::async(std::launch::async, [this, rows = std::move(chunk)] { return work(rows); }));
        chunk = next_chunk();
        continue;
      }
      for (auto& outcome : pending.front().get()) {
        take(outcome);
      }
      pending.pop_front();
    }
    report_.seconds = watch.seconds();
    return std::move(report_);
  }

 private:
  std::vector<RawRow> next_chunk() {
    std::vector<RawRow> rows;
    std::size_t bytes = 0;
    RawRow row;
    while (rows.size() < kChunkRows && bytes < kChunkBytes && source_->next(row)) {
      rows.push_back(row);
      bytes += row.text.size();
    }
    return rows;
  }

  std::vector<Outcome> work(const std::vector<RawRow>& rows) {
    std::vector<Outcome> outcomes;
    outcomes.reserve(rows.size());
    for (const auto& raw : rows) {
      Outcome outcome;
      outcome.line = raw.line;
      try {
        const Json row = source_->parse(raw);
        outcome.num_fields = row.size();
        const Record record = read_record_as(row, format_, options_.format);
        if (!only_counting_) {
          outcome.row = encoder_.encode(record);
          outcome.row.text.clear();
          outcome.row.offsets.clear();
        }
      } catch (const RowError& error) {
        outcome.problem = error.what();
        if (!options_.skip_bad_rows) {
          only_counting_ = true; // the run will be refused; what remains is to list the other bad rows
        }
      }
      outcomes.push_back(std::move(outcome));
    }
    return outcomes;
  }

  void take(Outcome& outcome) {
    ++report_.rows;
    if (outcome.problem) {
      report_.bad.add(outcome.line, std::move(*outcome.problem));
      if (options_.skip_bad_rows) {
        check_bad_rows(report_, options_);
      }
      return;
    }
    if (only_counting_ && outcome.row.example.tokens.empty()) {
      return;
    }
    const EncodedRow& row = outcome.row;
    report_.add_length(row.full_length);
    const auto length = std::to_string(row.full_length) + " tokens";
    if (!options_.encode.compat_mlx_lm && row.num_supervised == 0) {
      (row.lost_labels ? report_.dropped : report_.unsupervised).add(outcome.line, length);
      return;
    }
    if (row.truncated) {
      report_.truncated.add(outcome.line, length);
    }
    ++report_.examples;
    report_.tokens += static_cast<std::int64_t>(row.example.tokens.size());
    report_.supervised += row.num_supervised;
    report_.never_stops += row.learns_to_stop ? 0 : 1;
    for (const auto id : row.example.tokens) {
      report_.max_token_id = std::max<std::int64_t>(report_.max_token_id, id);
    }
    sink_(row.example, outcome.line, outcome.num_fields);
  }

  const DataOptions& options_;
  const ExampleSink& sink_;
  RowEncoder encoder_;
  RowFormat format_;
  std::unique_ptr<RowSource> source_;
  SplitReport report_;
  std::atomic<bool> only_counting_ = false;
};

} // namespace

RowFormat choose_format(const fs::path& path, const FormatOptions& options) {
  if (const auto named = row_format_from(options.data_format)) {
    return *named;
  }
  const auto source = open_rows(path, options.text_feature);
  std::optional<std::string> unknown;
  RawRow raw;
  for (int i = 0; i < kProbedRows && source->next(raw); ++i) {
    const std::string place = path.string() + ":" + std::to_string(raw.line) + ": ";
    try {
      const Json row = source->parse(raw);
      if (const auto format = detect_format(row, options)) {
        return *format;
      }
      if (!unknown) {
        unknown = place + "no known format: " + describe_keys(row) +
                  "; expected 'messages', 'conversations', 'prompt' and 'completion', 'instruction' and "
                  "'output', or 'text' (set prompt_feature and completion_feature, or a template, for others)";
        const auto kind = path.extension();
        unknown = *unknown +
                  (kind == ".csv" || kind == ".tsv" ? "; the file's first line must name its columns" : "");
      }
    } catch (const RowError& error) {
      unknown = unknown.value_or(place + error.what());
    }
  }
  throw DataError(unknown.value_or(path.string() + ": the file has no rows"));
}

SplitReport tokenize_file(const fs::path& path, std::shared_ptr<const Tokenizer> tokenizer,
                          const DataOptions& options, const ExampleSink& sink) {
  return Tokenization(path, std::move(tokenizer), options, sink).run();
}

void check_bad_rows(const SplitReport& report, const DataOptions& options) {
  const std::int64_t allowed = options.skip_bad_rows ? options.max_bad_rows : 0;
  if (report.bad.count <= allowed) {
    return;
  }
  const auto& first = report.bad.first.front();
  std::string text = report.path + ":" + std::to_string(first.line) + ": " + first.what;
  for (std::size_t i = 1; i < report.bad.first.size(); ++i) {
    log::warn(report.path + ":" + std::to_string(report.bad.first[i].line) + ": " + report.bad.first[i].what);
  }
  if (options.skip_bad_rows) {
    throw DataError(text + " (more than max_bad_rows " + std::to_string(allowed) +
                    " rows are malformed; mend the file or raise the limit)");
  }
  const auto more = report.bad.count - 1;
  throw DataError(text + " (" + (more > 0 ? "and " + with_commas(more) + " more malformed rows; " : "") +
                  "mend the file, or leave such rows out with --on-bad-row skip)");
}

} // namespace temper
