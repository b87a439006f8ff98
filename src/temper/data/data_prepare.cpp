#include "temper/data/data_prepare.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <limits>
#include <memory>
#include <numeric>
#include <unordered_set>
#include <utility>

#include "temper/base/error.h"
#include "temper/base/files.h"
#include "temper/data/epoch_plan.h"
#include "temper/data/find_splits.h"
#include "temper/data/row_source.h"
#include "temper/data/tokenize.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

// A seed stream for each choice (see shuffled_indices).
constexpr std::uint64_t kPickStream = 1ULL << 32;
constexpr std::uint64_t kOrderStream = 2ULL << 32;

struct SourceRows {
  std::unique_ptr<RowSource> rows;
  RowFormat format = RowFormat::text;
  std::vector<RawRow> usable;
};

struct ChosenRow {
  std::size_t source;
  std::size_t row;
};

void check_options(const PrepareOptions& options) {
  const auto refuse = [](const char* what) { throw ConfigError(what); };
  if (options.sources.empty()) {
    refuse("no source: name at least one data file");
  }
  if (options.out.empty()) {
    refuse("--out is missing: name the folder to write to");
  }
  if (!options.weights.empty() && options.weights.size() != options.sources.size()) {
    refuse("weights: give one a source, in their order");
  }
  if (std::ranges::any_of(options.weights, [](double weight) { return !(weight > 0) || std::isinf(weight); })) {
    refuse("weights: each must be above 0; leave a source out instead");
  }
  const bool fractions_fit = options.valid_fraction >= 0 && options.test_fraction >= 0 &&
                             options.valid_fraction + options.test_fraction < 1;
  if (!fractions_fit) {
    refuse("valid_fraction and test_fraction must not be negative and leave something for training");
  }
  if (options.sample < 0) {
    refuse("sample: must not be negative; 0 takes all rows");
  }
}

class Preparation {
 public:
  explicit Preparation(const PrepareOptions& options) : options_(options) {
    check_options(options);
  }

  PrepareReport run() {
    for (const auto& path : options_.sources) {
      read(path);
    }
    const bool one_format = std::ranges::all_of(
        sources_, [&](const auto& source) { return source.format == sources_.front().format; });
    keep_rows_ = one_format && sources_.front().format != RowFormat::template_;
    if (!one_format &&
        std::ranges::any_of(sources_, [](const auto& s) { return s.format == RowFormat::text; })) {
      throw DataError("text rows can't be mixed with chats or completions; prepare them apart");
    }
    write(choose());
    return std::move(report_);
  }

 private:
  void read(const fs::path& given) {
    const auto files = find_splits(given).train;
    if (files.empty()) {
      throw DataError(given.string() + ": the folder has no train file; name the file itself");
    }
    SourceRows source;
    source.format = one_format(files);
    source.rows = open_rows(files, options_.format.text_feature);
    PrepareReport::Source report;
    report.path = describe_files(files);
    report.format = to_string(source.format);
    RawRow raw;
    while (source.rows->next(raw)) {
      ++report.rows;
      try {
        const auto record = read_record_as(source.rows->parse(raw), source.format, options_.format);
        if (options_.deduplicate && !seen_.insert(record_hash(record)).second) {
          ++report.duplicates;
          continue;
        }
        source.usable.push_back(raw);
      } catch (const RowError& error) {
        report.bad.add(raw.line, error.what());
        if (report.bad.count == 1) {
          report.bad.first.front().file = files[raw.file].string();
        }
        refuse_bad_row(report);
      }
    }
    if (source.usable.empty() && report.duplicates == 0) {
      throw DataError(report.path + ": no row is left of " + with_commas(report.rows));
    }
    sources_.push_back(std::move(source));
    report_.sources.push_back(std::move(report));
  }

  RowFormat one_format(const std::vector<fs::path>& files) const {
    const auto format = choose_format(files.front(), options_.format);
    for (const auto& file : files) {
      if (choose_format(file, options_.format) != format) {
        throw DataError(file.string() + ": its rows are of another format than those of " +
                        files.front().string() + "; name the two as sources of their own");
      }
    }
    return format;
  }

  void refuse_bad_row(const PrepareReport::Source& source) const {
    const std::int64_t allowed = options_.skip_bad_rows ? options_.max_bad_rows : 0;
    if (source.bad.count <= allowed) {
      return;
    }
    const auto& first = source.bad.first.front();
    const std::string advice = options_.skip_bad_rows
                                   ? "more than max_bad_rows " + std::to_string(allowed) + " rows are malformed"
                                   : "mend the file, or leave such rows out with --on-bad-row skip";
    throw DataError(first.file + ":" + std::to_string(first.line) + ": " + first.what + " (" + advice + ")");
  }

  std::int64_t usable_rows(std::size_t source) const {
    return static_cast<std::int64_t>(sources_[source].usable.size());
  }

  // Rows to take of each source.
  std::vector<std::int64_t> quotas() const {
    std::vector<double> weights = options_.weights;
    std::int64_t all = 0;
    for (std::size_t i = 0; i < sources_.size(); ++i) {
      all += usable_rows(i);
    }
    if (weights.empty()) {
      for (std::size_t i = 0; i < sources_.size(); ++i) {
        weights.push_back(static_cast<double>(usable_rows(i)));
      }
    }
    const double weight_sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    double most = static_cast<double>(options_.sample > 0 ? options_.sample : all);
    if (options_.sample == 0) {
      for (std::size_t i = 0; i < sources_.size(); ++i) {
        most = std::min(most, static_cast<double>(usable_rows(i)) * weight_sum / weights[i]);
      }
    }
    return apportion(weights, weight_sum, static_cast<std::int64_t>(std::floor(most + 1e-9)));
  }

  // `total` in proportion to `weights`, the rounding given to the largest remainders.
  std::vector<std::int64_t> apportion(const std::vector<double>& weights, double weight_sum,
                                      std::int64_t total) const {
    std::vector<std::int64_t> quotas;
    std::vector<std::pair<double, std::size_t>> remainders;
    std::int64_t given = 0;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const double share = static_cast<double>(total) * weights[i] / weight_sum;
      quotas.push_back(static_cast<std::int64_t>(std::floor(share + 1e-9)));
      remainders.emplace_back(static_cast<double>(quotas.back()) - share, i);
      given += quotas.back();
    }
    std::ranges::sort(remainders);
    for (std::size_t i = 0; given < total; ++i, ++given) {
      ++quotas[remainders[i].second];
    }
    for (std::size_t i = 0; i < quotas.size(); ++i) {
      if (quotas[i] > usable_rows(i)) {
        throw DataError(report_.sources[i].path + ": has " + with_commas(usable_rows(i)) + " usable rows but " +
                        with_commas(quotas[i]) + " are asked for; lower --sample or its weight");
      }
    }
    return quotas;
  }

  std::vector<ChosenRow> choose() {
    const auto take = quotas();
    std::vector<ChosenRow> picked;
    for (std::size_t i = 0; i < sources_.size(); ++i) {
      report_.sources[i].used = take[i];
      const auto order = shuffled_indices(sources_[i].usable.size(), options_.seed, kPickStream + i);
      for (std::int64_t k = 0; k < take[i]; ++k) {
        picked.push_back({i, order[static_cast<std::size_t>(k)]});
      }
    }
    std::vector<ChosenRow> shuffled;
    shuffled.reserve(picked.size());
    for (const auto index : shuffled_indices(picked.size(), options_.seed, kOrderStream)) {
      shuffled.push_back(picked[index]);
    }
    return shuffled;
  }

  void write(const std::vector<ChosenRow>& rows) {
    const auto count = [&](double fraction) {
      return static_cast<std::size_t>(std::llround(fraction * static_cast<double>(rows.size())));
    };
    const std::size_t num_test = count(options_.test_fraction);
    const std::size_t num_valid = count(options_.valid_fraction);
    const auto all = std::span(rows);
    if (num_test + num_valid >= rows.size()) {
      throw DataError(with_commas(static_cast<std::int64_t>(rows.size())) +
                      " rows leave none for training after valid_fraction and test_fraction");
    }
    const std::vector<std::pair<const char*, std::span<const ChosenRow>>> splits = {
        {"train.jsonl", all.subspan(num_test + num_valid)},
        {"valid.jsonl", all.subspan(num_test, num_valid)},
        {"test.jsonl", all.first(num_test)}};
    for (const auto& [name, part] : splits) {
      if (!options_.overwrite && fs::exists(options_.out / name)) {
        throw ConfigError((options_.out / name).string() +
                          " is there already; pass --overwrite, or another --out");
      }
    }
    make_directories(options_.out);
    for (const auto& [name, part] : splits) {
      if (!part.empty()) {
        write_split(options_.out / name, part);
      }
    }
  }

  void write_split(const fs::path& path, std::span<const ChosenRow> rows) {
    write_file_atomic(path, [&](const fs::path& temporary) {
      std::ofstream file(temporary, std::ios::binary);
      for (const auto& chosen : rows) {
        file << dump(row_json(chosen)) << '\n';
      }
      file.close();
      if (!file) {
        throw IoError("cannot write " + path.string() + ": " + std::strerror(errno));
      }
    });
    report_.outputs.push_back({path.string(), static_cast<std::int64_t>(rows.size())});
  }

  Json row_json(const ChosenRow& chosen) const {
    const auto& source = sources_[chosen.source];
    Json row = source.rows->parse(source.usable[chosen.row]);
    if (keep_rows_) {
      return row;
    }
    const auto record = read_record(row, source.format, options_.format);
    if (record.text) {
      return {{"text", *record.text}};
    }
    Json messages = record.messages.is_null() ? record.prompt_messages() : record.messages;
    for (std::size_t i = 0; i < record.first_target; ++i) {
      if (messages[i]["role"] == "assistant") {
        messages[i]["weight"] = 0; // context stays context
      }
    }
    Json made{{"messages", std::move(messages)}};
    if (!record.tools.is_null()) {
      made["tools"] = record.tools;
    }
    return made;
  }

  const PrepareOptions& options_;
  std::vector<SourceRows> sources_;
  std::unordered_set<std::uint64_t> seen_;
  PrepareReport report_;
  bool keep_rows_ = true;
};

} // namespace

Json PrepareReport::to_json() const {
  Json json{{"sources", Json::array()}, {"outputs", Json::array()}};
  for (const auto& source : sources) {
    json["sources"].push_back({{"path", source.path},
                               {"format", source.format},
                               {"rows", source.rows},
                               {"duplicates", source.duplicates},
                               {"bad", source.bad.count},
                               {"used", source.used}});
  }
  for (const auto& output : outputs) {
    json["outputs"].push_back({{"path", output.path}, {"rows", output.rows}});
  }
  return json;
}

PrepareReport prepare_files(const PrepareOptions& options) {
  return Preparation(options).run();
}

} // namespace temper
