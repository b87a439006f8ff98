#include "temper/data/prepared_data.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <utility>

#include "temper/base/clock.h"
#include "temper/base/error.h"
#include "temper/base/files.h"
#include "temper/base/log.h"
#include "temper/data/content_hash.h"
#include "temper/data/data_parts.h"
#include "temper/data/epoch_plan.h"
#include "temper/data/file_hash.h"
#include "temper/data/find_splits.h"
#include "temper/data/token_cache.h"
#include "temper/data/tokenize.h"

namespace temper {
namespace {

namespace fs = std::filesystem;

// Part of every cache's key: a change of rendering or masking must change it.
constexpr int kRenderingVersion = 2;
// Streams of the seed that are no epochs' (see shuffled_indices).
constexpr std::uint64_t kSubsetStream = ~std::uint64_t{0};
constexpr std::uint64_t kValidStream = kSubsetStream - 1;

std::uint64_t cache_key(const fs::path& path, const Tokenizer& tokenizer, const DataOptions& options) {
  ContentHash hash;
  hash.add_value(kRenderingVersion).add_value(hash_file(path, options.cache_dir));
  hash.add_text(path.extension().string()).add_text(tokenizer.fingerprint());
  const auto& format = options.format;
  for (const auto* text :
       {&format.data_format, &format.prompt_feature, &format.completion_feature, &format.text_feature,
        &format.chat_feature, &format.prompt_template, &format.completion_template, &format.system_prompt}) {
    hash.add_text(*text);
  }
  const auto& encode = options.encode;
  hash.add_value(encode.max_seq_length).add_value(encode.mask_prompt).add_value(encode.last_turn_only);
  return hash.add_value(encode.compat_mlx_lm).value();
}

// mlx-lm sorts rows by their number of fields, which it takes for their length; ties keep the file's order.
std::vector<std::uint32_t> mlx_lm_order(const std::vector<std::uint32_t>& num_fields) {
  std::vector<std::uint32_t> order(num_fields.size());
  std::iota(order.begin(), order.end(), 0U);
  std::ranges::stable_sort(order, {}, [&](auto i) { return num_fields[i]; });
  return order;
}

// Removes what processes that were killed while writing left in the folder: temporaries a day old.
void remove_stale_temporaries(const fs::path& folder) {
  constexpr std::chrono::hours kStale{24};
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const auto written = entry.last_write_time(ignored);
    if (!ignored && entry.path().filename().string().starts_with(".tokens-") &&
        fs::file_time_type::clock::now() - written > kStale) {
      fs::remove(entry.path(), ignored);
    }
  }
}

// Tokens of one file, from the cache, into it, or in memory.
class SplitPreparation {
 public:
  SplitPreparation(fs::path path, std::string split, std::shared_ptr<const Tokenizer> tokenizer,
                   const DataOptions& options)
      : path_(std::move(path)), split_(std::move(split)), tokenizer_(std::move(tokenizer)), options_(options) {
  }

  PreparedSplit run() {
    key_ = cache_key(path_, *tokenizer_, options_);
    auto prepared = options_.cache_dir.empty() ? in_memory() : from_cache_or_into();
    prepared.report.split = split_;
    prepared.report.path = path_.string();
    return prepared;
  }

 private:
  PreparedSplit from_cache_or_into() {
    const auto cache = options_.cache_dir / ("tokens-" + ContentHash::to_hex(key_) + ".bin");
    if (auto known = open(cache)) {
      check_bad_rows(known->report, options_);
      return *std::move(known);
    }
    try {
      make_directories(options_.cache_dir);
      remove_stale_temporaries(options_.cache_dir);
      write_file_atomic(cache, [&](const fs::path& temporary) { write(temporary); });
    } catch (const IoError& error) {
      log::warn(std::string("no token cache: ") + error.what() +
                "; tokens stay in memory (another folder: --cache-dir)");
      return in_memory();
    }
    auto written = open_token_cache(cache, key_);
    return {std::move(written.data), std::move(report_)};
  }

  std::optional<PreparedSplit> open(const fs::path& cache) {
    const Stopwatch watch;
    if (!fs::exists(cache)) {
      return std::nullopt;
    }
    try {
      auto cached = open_token_cache(cache, key_);
      PreparedSplit prepared{std::move(cached.data), SplitReport::from_json(cached.meta)};
      prepared.report.from_cache = true;
      prepared.report.seconds = watch.seconds();
      return prepared;
    } catch (const DataError& error) {
      log::warn(std::string("the token cache is made anew: ") + error.what());
    } catch (const IoError& error) {
      log::warn(std::string("the token cache is made anew: ") + error.what());
    }
    return std::nullopt;
  }

  void write(const fs::path& temporary) {
    TokenCacheWriter writer(temporary);
    tokenize([&](const Example& example, std::int64_t line) { writer.add(example, line); });
    writer.finish(key_, report_.to_json(), order());
  }

  PreparedSplit in_memory() {
    std::vector<Example> examples;
    std::vector<std::int64_t> lines;
    tokenize([&](const Example& example, std::int64_t line) {
      examples.push_back(example);
      lines.push_back(line);
    });
    auto data = make_token_dataset(std::move(examples), std::move(lines));
    if (const auto sorted = order(); !sorted.empty()) {
      data = make_subset(std::move(data), sorted);
    }
    return {std::move(data), std::move(report_)};
  }

  template <typename Add>
  void tokenize(Add add) {
    num_fields_.clear();
    report_ = tokenize_file(path_, tokenizer_, options_,
                            [&](const Example& example, std::int64_t line, std::size_t num_fields) {
                              add(example, line);
                              if (options_.encode.compat_mlx_lm) {
                                num_fields_.push_back(static_cast<std::uint32_t>(num_fields));
                              }
                            });
    check_bad_rows(report_, options_);
    if (report_.examples == 0) {
      refuse_empty();
    }
  }

  [[noreturn]] void refuse_empty() const {
    const std::string start =
        path_.string() + ": none of " + with_commas(report_.rows) + " rows can be learned from: ";
    if (report_.dropped.count > 0) {
      throw DataError(start + "max_seq_length " + std::to_string(options_.encode.max_seq_length) +
                      " cuts off every target (the longest row has " + with_commas(report_.longest) +
                      " tokens); raise it");
    }
    if (report_.unsupervised.count > 0) {
      throw DataError(start + "no row has an assistant message or completion with text; see mask_prompt");
    }
    throw DataError(start + "all are malformed");
  }

  std::vector<std::uint32_t> order() const {
    return options_.encode.compat_mlx_lm ? mlx_lm_order(num_fields_) : std::vector<std::uint32_t>();
  }

  fs::path path_;
  std::string split_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  const DataOptions& options_;
  std::uint64_t key_ = 0;
  SplitReport report_;
  std::vector<std::uint32_t> num_fields_;
};

void check_vocabulary(const PreparedSplit& split, int vocab_size) {
  if (vocab_size <= 0 || split.report.max_token_id < vocab_size) {
    return;
  }
  for (std::size_t i = 0; i < split.data->size(); ++i) {
    for (const auto id : (*split.data)[i].tokens) {
      if (id >= vocab_size) {
        throw DataError(split.report.path + ":" + std::to_string(split.data->line(i)) + ": token id " +
                        std::to_string(id) + " is beyond the model's vocabulary of " +
                        std::to_string(vocab_size) + "; model and tokenizer don't belong together");
      }
    }
  }
}

// Examples, tokens and targets of a part of a file's data.
SplitReport report_of_part(SplitReport report, const TokenDataset& part) {
  report.examples = static_cast<std::int64_t>(part.size());
  report.tokens = 0;
  report.supervised = 0;
  for (std::size_t i = 0; i < part.size(); ++i) {
    const auto example = part[i];
    report.tokens += static_cast<std::int64_t>(example.tokens.size());
    report.supervised += std::count(example.supervised.begin() + 1, example.supervised.end(), 1);
  }
  return report;
}

// The chosen indices in the data's order.
std::shared_ptr<const TokenDataset> part_of(const std::shared_ptr<const TokenDataset>& data,
                                            std::span<const std::uint32_t> chosen) {
  std::vector<std::uint32_t> indices(chosen.begin(), chosen.end());
  std::ranges::sort(indices);
  return make_subset(data, std::move(indices));
}

void split_off_valid(PreparedSplit& train, PreparedSplit& valid, const RunConfig& config) {
  const auto n = train.data->size();
  if (n < 2) {
    throw DataError(train.report.path + ": one example can't be split by valid_fraction; add rows");
  }
  const auto wanted = static_cast<std::size_t>(std::llround(config.valid_fraction * static_cast<double>(n)));
  const auto num_valid = std::clamp<std::size_t>(wanted, 1, n - 1);
  const auto indices = shuffled_indices(n, config.seed, kValidStream);
  valid.data = part_of(train.data, std::span(indices).first(num_valid));
  valid.report = report_of_part(train.report, *valid.data);
  valid.report.split = "valid";
  train.data = part_of(train.data, std::span(indices).subspan(num_valid));
  train.report.examples -= valid.report.examples;
  train.report.tokens -= valid.report.tokens;
  train.report.supervised -= valid.report.supervised;
  log::info("valid: " + with_commas(valid.report.examples) + " examples split off by valid_fraction");
}

void keep_dataset_size(PreparedSplit& train, const RunConfig& config) {
  const auto size = static_cast<std::size_t>(config.dataset_size);
  if (size == 0 || size >= train.data->size()) {
    return;
  }
  const auto indices = shuffled_indices(train.data->size(), config.seed, kSubsetStream);
  train.data = part_of(train.data, std::span(indices).first(size));
  train.report = report_of_part(train.report, *train.data);
  log::info("train: " + with_commas(config.dataset_size) + " of the examples are used (dataset_size)");
}

PreparedSplit prepare_split_files(const std::vector<fs::path>& files, const std::string& split,
                                  const std::shared_ptr<const Tokenizer>& tokenizer, const DataOptions& options,
                                  int vocab_size) {
  std::vector<std::shared_ptr<const TokenDataset>> data;
  std::vector<SplitReport> reports;
  for (const auto& file : files) {
    auto prepared = SplitPreparation(file, split, tokenizer, options).run();
    check_vocabulary(prepared, vocab_size);
    data.push_back(std::move(prepared.data));
    reports.push_back(std::move(prepared.report));
  }
  return {make_concatenation(std::move(data)), join_reports(std::move(reports), describe_files(files))};
}

// The rows that a range leaves. Rows that made no example count for nothing: there are none with a full file.
void keep_range(PreparedSplit& split, const RowRange& range) {
  const auto [from, to] = range.of(split.data->size());
  if (from == to) {
    throw DataError(split.report.path + ": the split asked for has none of its " +
                    with_commas(static_cast<std::int64_t>(split.data->size())) + " examples");
  }
  std::vector<std::uint32_t> indices(to - from);
  std::iota(indices.begin(), indices.end(), static_cast<std::uint32_t>(from));
  split.data = make_subset(split.data, std::move(indices));
  split.report = report_of_part(std::move(split.report), *split.data);
}

void log_report(const SplitReport& report) {
  log::info(report.summary());
  for (const auto& line : report.warnings()) {
    log::warn(line);
  }
}

// One split of all parts; without data if no part has it.
PreparedSplit prepare_parts(const std::vector<DataPart>& parts, std::vector<SplitPart> DataPart::*split,
                            const std::string& name, const std::shared_ptr<const Tokenizer>& tokenizer,
                            int vocab_size) {
  std::vector<std::shared_ptr<const TokenDataset>> data;
  std::vector<SplitReport> reports;
  std::vector<fs::path> files;
  for (const auto& part : parts) {
    for (const auto& piece : part.*split) {
      auto prepared = prepare_split_files(piece.files, name, tokenizer, part.options, vocab_size);
      if (!piece.range.is_all()) {
        keep_range(prepared, piece.range);
      }
      data.push_back(std::move(prepared.data));
      reports.push_back(std::move(prepared.report));
      files.insert(files.end(), piece.files.begin(), piece.files.end());
    }
  }
  if (data.empty()) {
    return {};
  }
  PreparedSplit joined{make_concatenation(std::move(data)),
                       join_reports(std::move(reports), describe_files(files))};
  log_report(joined.report);
  return joined;
}

} // namespace

Json PreparedData::to_json() const {
  Json splits = Json::array();
  for (const auto& report : reports) {
    splits.push_back(report.to_json());
  }
  return {{"fingerprint", fingerprint}, {"splits", std::move(splits)}};
}

PreparedData prepare_data(const RunConfig& config, std::shared_ptr<const Tokenizer> tokenizer,
                          int model_vocab_size) {
  const auto parts = data_parts(config);
  const auto prepare = [&](std::vector<SplitPart> DataPart::*split, const char* name) {
    return prepare_parts(parts, split, name, tokenizer, model_vocab_size);
  };
  const auto none_of = [&](std::vector<SplitPart> DataPart::*split) {
    return std::ranges::all_of(parts, [&](const auto& part) { return (part.*split).empty(); });
  };
  const std::string place = config.hf_dataset.is_null() ? config.data : "hf_dataset";
  if (config.train && none_of(&DataPart::train)) {
    throw DataError(place + ": the folder has no train file (.jsonl, .json, .csv, .tsv, .txt or .parquet)");
  }
  if (config.test && none_of(&DataPart::test)) {
    throw DataError(place + ": --test needs a test file (.jsonl, .json, .csv, .tsv, .txt or .parquet) " +
                    "in a folder");
  }
  PreparedSplit train;
  PreparedSplit valid;
  PreparedSplit test;
  if (config.train) {
    train = prepare(&DataPart::train, "train");
    valid = prepare(&DataPart::valid, "valid");
    if (!valid.data && config.valid_fraction > 0) {
      split_off_valid(train, valid, config);
    }
    keep_dataset_size(train, config);
  }
  if (config.test) {
    test = prepare(&DataPart::test, "test");
  }
  PreparedData prepared{train.data, valid.data, test.data, {}, {}};
  ContentHash fingerprint;
  for (auto* split : {&train, &valid, &test}) {
    fingerprint.add_text(split->data ? split->data->fingerprint() : "");
    if (split->data) {
      prepared.reports.push_back(std::move(split->report));
    }
  }
  prepared.fingerprint = fingerprint.hex();
  return prepared;
}

PreparedSplit prepare_split(const fs::path& data, const std::string& split, const RunConfig& config,
                            const std::shared_ptr<const Tokenizer>& tokenizer, int model_vocab_size) {
  const auto files = split_files(data, split);
  const auto name = !split.empty() ? split : files == find_splits(data).valid ? "valid" : "test";
  auto prepared = prepare_split_files(files, name, tokenizer, data_options(config), model_vocab_size);
  log_report(prepared.report);
  return prepared;
}

} // namespace temper
