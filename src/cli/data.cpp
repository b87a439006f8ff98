// temper data: look at a data set, see it as the model will, and make one from others.
#include <cstdio>
#include <filesystem>

#include <fmt/format.h>
#include <unistd.h>

#include "cli/args.h"
#include "cli/verbs.h"
#include "temper/base/error.h"
#include "temper/base/json.h"
#include "temper/base/log.h"
#include "temper/config/run_config_fields.h"
#include "temper/data/data_check.h"
#include "temper/data/data_options.h"
#include "temper/data/data_prepare.h"
#include "temper/data/data_preview.h"
#include "temper/data/find_splits.h"
#include "temper/data/prepared_data.h"
#include "temper/infer/find_model.h"
#include "temper/net/resolve.h"

namespace temper::cli {
namespace {

const std::vector<std::string> kFormatKeys = {"data_format",        "prompt_feature", "completion_feature",
                                              "text_feature",       "chat_feature",   "prompt_template",
                                              "completion_template"};
const std::vector<std::string> kMaskKeys = {"mask_prompt", "supervise", "system_prompt", "max_seq_length",
                                            "compat"};

void add_run_fields(Args& args, RunConfig& config, const std::vector<std::string>& keys) {
  const auto fields = run_config_fields(config);
  for (const auto& key : keys) {
    args.add_like(*fields.find(key));
  }
}

Field& add_model(Args& args, RunConfig& config) {
  args.add("revision", &config.revision, "branch, tag or commit of a model on the hub; none: its main one");
  return args
      .add("model", &config.model, "whose tokenizer and chat template to use: a folder, or org/name on the hub")
      .metavar("DIR|NAME")
      .letter('m');
}

// Under `compat: mlx-lm` all of a row is learned unless the mask is asked for, as in training.
void apply_compat(const Args& args, RunConfig& config) {
  if (config.compat == "mlx-lm" && !args.given("mask_prompt")) {
    config.mask_prompt = false;
  }
}

// Of the model's embedding; 0 if its config does not say.
int vocab_size_of(const std::filesystem::path& model) {
  const auto path = model / "config.json";
  if (!std::filesystem::exists(path)) {
    return 0;
  }
  const Json config = read_json(path);
  const Json& text = config.contains("text_config") ? config["text_config"] : config;
  return text.contains("vocab_size") && text["vocab_size"].is_number_integer() ? text["vocab_size"].get<int>()
                                                                               : 0;
}

int run_check(const Arguments& arguments) {
  RunConfig config;
  Args args(
      "data check",
      "Counts, lengths, truncation, supervised share, malformed rows and duplicates of a data set. Without "
      "--model: no tokens.",
      "temper data check --data data/ --model models/llama");
  args.group("Data");
  args.add("data", &config.data,
           "folder of train, valid and test files, a file or pattern, hf://datasets/org/name, s3://bucket/key")
      .metavar("PATH")
      .letter('d')
      .required();
  add_model(args, config);
  add_run_fields(args, config, kFormatKeys);
  add_run_fields(args, config, kMaskKeys);
  add_run_fields(args, config, {"cache_dir"});
  if (!args.parse(arguments)) {
    return 0;
  }
  apply_compat(args, config);
  std::shared_ptr<const Tokenizer> tokenizer;
  int vocab_size = 0;
  if (!config.model.empty()) {
    const auto folder = find_model(config.model, config.revision, ModelFiles::description);
    tokenizer = Tokenizer::load(folder);
    vocab_size = vocab_size_of(folder);
  }
  find_splits(config.data);          // says what it fetches
  log::set_level(log::Level::error); // from here the answer says it all, once
  const auto check = check_data(config, tokenizer, vocab_size);
  if (args.json()) {
    print_json(check.to_json());
  } else {
    fmt::print("{}", check.to_text());
  }
  return check.has_bad_rows() ? static_cast<int>(ExitCode::data) : 0;
}

void print_previews(const std::vector<PreviewRow>& rows) {
  const bool colours = ::isatty(STDOUT_FILENO) != 0;
  const std::string open = colours ? "\x1b[32m" : "«";
  const std::string close = colours ? "\x1b[0m" : "»";
  for (const auto& row : rows) {
    fmt::print("--- {}:{}: ", row.file, row.line);
    if (!row.problem.empty()) {
      fmt::print("malformed: {}\n", row.problem);
      continue;
    }
    fmt::print("{} tokens, {} supervised{}\n{}\n", row.tokens.size(), row.num_supervised,
               row.num_cut > 0 ? fmt::format(", {} cut by max_seq_length", row.num_cut) : "",
               row.to_text(open, close));
  }
}

int run_preview(const Arguments& arguments) {
  RunConfig config;
  std::string split = "train";
  int rows = 3;
  int skip = 0;
  Args args(
      "data preview",
      "Rows as the model will see them. What is learned is coloured, or put in « » when not on a terminal.",
      "temper data preview --data data/ --model models/llama --rows 5");
  args.group("Data");
  args.add("data", &config.data,
           "folder of train, valid and test files, a file or pattern, hf://datasets/org/name, s3://bucket/key")
      .metavar("PATH")
      .letter('d')
      .required();
  add_model(args, config).required();
  args.add("split", &split, "which file of a folder").one_of({"train", "valid", "test"});
  args.add("rows", &rows, "rows to show").at_least(1).letter('n');
  args.add("skip", &skip, "rows to pass over first").at_least(0);
  add_run_fields(args, config, kFormatKeys);
  add_run_fields(args, config, kMaskKeys);
  if (!args.parse(arguments)) {
    return 0;
  }
  apply_compat(args, config);
  const auto files = split_files(config.data, split);
  const auto tokenizer = Tokenizer::load(find_model(config.model, config.revision, ModelFiles::description));
  const auto shown = preview_rows(files, tokenizer, data_options(config), rows, skip);
  if (!args.json()) {
    print_previews(shown);
    return 0;
  }
  Json json{{"path", describe_files(files)}, {"rows", Json::array()}};
  for (const auto& row : shown) {
    json["rows"].push_back(row.to_json());
    if (files.size() > 1) {
      json["rows"].back()["file"] = row.file;
    }
  }
  print_json(json);
  return 0;
}

PrepareOptions prepare_options(const RunConfig& config, const std::vector<std::string>& sources,
                               const std::string& out) {
  PrepareOptions options;
  options.sources.assign(sources.begin(), sources.end());
  options.out = out;
  options.valid_fraction = config.valid_fraction;
  options.seed = config.seed;
  options.skip_bad_rows = config.on_bad_row == "skip";
  options.max_bad_rows = config.max_bad_rows;
  options.format = data_options(config).format;
  return options;
}

void print_prepared(const PrepareReport& report) {
  for (const auto& source : report.sources) {
    fmt::print("{} ({}): {} of {} rows{}{}\n", source.path, source.format, with_commas(source.used),
               with_commas(source.rows),
               source.duplicates > 0 ? fmt::format(", {} repeated", with_commas(source.duplicates)) : "",
               source.bad.count > 0 ? fmt::format(", {} malformed", with_commas(source.bad.count)) : "");
  }
  for (const auto& output : report.outputs) {
    fmt::print("-> {}: {} rows\n", output.path, with_commas(output.rows));
  }
}

int run_prepare(const Arguments& arguments) {
  RunConfig config;
  std::vector<std::string> sources;
  std::string out;
  PrepareOptions given;
  Args args(
      "data prepare",
      "Mixes, de-duplicates, samples and splits data files, and writes train, valid and test .jsonl.",
      "temper data prepare chats.jsonl faq.csv --weights 3,1 --deduplicate --valid-fraction 0.1 --out data/");
  args.group("Data");
  args.add("sources", &sources, "data files, or folders of which the train file is taken")
      .metavar("PATH")
      .positional()
      .required();
  args.add("out", &out, "folder to write to").metavar("DIR").letter('o').required();
  args.add("overwrite", &given.overwrite, "replace files that are there already");
  args.add("weights", &given.weights, "rows of each source in these proportions; none: all rows").commas();
  args.add("sample", &given.sample, "rows to write in all; 0: as many as there are").at_least(0);
  args.add("deduplicate", &given.deduplicate, "leave out rows that say what another says");
  args.add("test_fraction", &given.test_fraction, "part of the rows for test.jsonl").at_least(0).below(1);
  add_run_fields(args, config, {"valid_fraction", "seed", "on_bad_row", "max_bad_rows"});
  add_run_fields(args, config, kFormatKeys);
  add_run_fields(args, config, {"system_prompt"});
  if (!args.parse(arguments)) {
    return 0;
  }
  auto options = prepare_options(config, sources, out);
  options.overwrite = given.overwrite;
  options.weights = given.weights;
  options.sample = given.sample;
  options.deduplicate = given.deduplicate;
  options.test_fraction = given.test_fraction;
  const auto report = prepare_files(options);
  if (args.json()) {
    print_json(report.to_json());
  } else {
    print_prepared(report);
  }
  return 0;
}

} // namespace

int run_data(const Arguments& arguments) {
  static const std::vector<Verb> kVerbs = {
      {"check", "counts, lengths, malformed rows and duplicates", run_check},
      {"preview", "rows as the model will see them, and what is learned of them", run_preview},
      {"prepare", "mix, de-duplicate, sample and split data files", run_prepare},
  };
  return run_subverb("data", "Look at a data set, see it as the model will, and make one from others.",
                     arguments, kVerbs);
}

} // namespace temper::cli
