// temper eval: loss and perplexity of a model on a data set, and how well it answers its questions.
#include <algorithm>
#include <cstdio>

#include <fmt/format.h>

#include "cli/args.h"
#include "cli/interrupt.h"
#include "cli/model_flags.h"
#include "cli/verbs.h"
#include "temper/base/clock.h"
#include "temper/base/error.h"
#include "temper/base/log.h"
#include "temper/base/units.h"
#include "temper/config/run_config_fields.h"
#include "temper/data/find_splits.h"
#include "temper/data/prepared_data.h"
#include "temper/eval/perplexity.h"
#include "temper/eval/questions.h"
#include "temper/eval/text_metrics.h"

namespace temper::cli {
namespace {

struct EvalFlags {
  ModelFlags model;
  SamplingFlags sampling;
  RunConfig config; // of which the data's keys are flags here too
  std::string split;
  int num_batches = -1;
  bool generate = false;
  std::vector<std::string> metrics = {"exact", "chrf"};
  int limit = 0;
  int samples = 5;
  int generate_batch = 32;
};

bool parse(EvalFlags& flags, Args& args, const Arguments& arguments) {
  const auto run_fields = run_config_fields(flags.config);
  flags.model.add_to(args);
  args.group("Data");
  args.add_like(*run_fields.find("data"));
  args.add("split", &flags.split, "which file of a folder; none: test, or else valid")
      .one_of({"train", "valid", "test"});
  for (const char* key :
       {"data_format", "prompt_feature", "completion_feature", "text_feature", "chat_feature",
        "prompt_template", "completion_template", "on_bad_row", "max_bad_rows", "mask_prompt", "supervise",
        "system_prompt", "max_seq_length", "packing", "batch_size", "cache_dir", "compat"}) {
    args.add_like(*run_fields.find(key));
  }
  args.add("num_batches", &flags.num_batches, "batches to measure; -1: all").at_least(-1).alias("test_batches");
  args.group("Answers");
  args.add("generate", &flags.generate, "also answer each row's prompt and score the answers");
  args.add("metrics", &flags.metrics,
           "scores of the answers: " + fmt::format("{}", fmt::join(metric_names(), ", ")))
      .one_of(metric_names())
      .commas()
      .metavar("A,B");
  args.add("limit", &flags.limit, "answer the first N rows; 0: all").at_least(0);
  args.add("samples", &flags.samples, "answers to show").at_least(0);
  args.add("generate_batch", &flags.generate_batch, "prompts answered at once").at_least(1);
  flags.sampling.add_to(args);
  if (!args.parse(arguments)) {
    return false;
  }
  if (flags.config.data.empty()) {
    throw ConfigError("--data is missing: name a folder or a file; see `temper eval --help`");
  }
  if (flags.config.compat == "mlx-lm") {
    flags.config.mask_prompt = args.given("mask_prompt") && flags.config.mask_prompt;
    flags.config.packing = false;
    if (!args.given("supervise")) {
      flags.config.supervise = "last-turn";
    }
  }
  return true;
}

LoaderOptions loader_options(const RunConfig& config) {
  LoaderOptions options;
  options.batch_size = config.batch_size;
  options.max_seq_length = config.max_seq_length;
  options.packing = config.packing;
  options.compat_mlx_lm = config.compat == "mlx-lm";
  options.shuffle = false;
  return options;
}

DatasetLoss measure_loss(const EvalFlags& flags, const LoadedModel& loaded, const PreparedSplit& split) {
  EvalBatches batches(split.data, loader_options(flags.config), flags.num_batches);
  LossOptions options;
  options.on_batch = [](std::size_t, std::size_t) { return interrupt_signal().load() == 0; };
  const auto loss = evaluate_loss(loaded.view(), batches, options);
  if (loss.batches < batches.size()) {
    log::warn(fmt::format("interrupted: the loss is that of {} of {} batches", loss.batches, batches.size()));
  }
  return loss;
}

AnswerScores measure_answers(const EvalFlags& flags, const LoadedModel& loaded,
                             const std::vector<Question>& questions) {
  auto options = flags.sampling.options();
  options.batch_size = flags.generate_batch;
  Stopwatch since_remark;
  return answer_questions(loaded.view(), loaded.tokenizer, questions, options, flags.metrics,
                          [&](std::size_t done) {
                            if (since_remark.seconds() > 10) {
                              log::info(fmt::format("{} of {} answered", done, questions.size()));
                              since_remark.restart();
                            }
                          });
}

Json answers_json(const std::vector<Question>& questions, const AnswerScores& scores) {
  Json json = Json::object();
  for (const auto& [name, value] : scores.metrics) {
    json[name] = value;
  }
  json["generated_tokens"] = scores.tokens;
  json["generated_tokens_per_second"] = scores.tokens_per_second();
  json["answers"] = Json::array();
  for (std::size_t i = 0; i < questions.size(); ++i) {
    json["answers"].push_back({{"line", questions[i].line},
                               {"prompt", questions[i].text},
                               {"reference", questions[i].reference},
                               {"answer", scores.answers[i]}});
  }
  return json;
}

void print_answers(const EvalFlags& flags, const std::vector<Question>& questions, const AnswerScores& scores) {
  const auto shown = std::min(questions.size(), static_cast<std::size_t>(flags.samples));
  for (std::size_t i = 0; i < shown; ++i) {
    fmt::print("\n> {}\n  reference: {}\n  answer:    {}\n", questions[i].text, questions[i].reference,
               scores.answers[i]);
  }
  fmt::print("\n{} answers", questions.size());
  for (const auto& [name, value] : scores.metrics) {
    fmt::print(", {} {:.2f}", name, value);
  }
  fmt::print(", {:.1f} tokens/s\n", scores.tokens_per_second());
}

} // namespace

int run_eval(const Arguments& arguments) {
  EvalFlags flags;
  Args args("eval", "Loss and perplexity of a model on a data set; with --generate, scores of its answers.",
            "temper eval --model models/llama --adapter runs/mine --data data/ --split test --json");
  if (!parse(flags, args, arguments)) {
    return 0;
  }
  const auto loaded = load(flags.model);
  const auto split = prepare_split(flags.config.data, flags.split, flags.config, loaded.tokenizer,
                                   loaded.model.spec.vocab_size);
  std::vector<Question> questions;
  if (flags.generate) {
    questions = read_questions(split_files(flags.config.data, flags.split), *loaded.tokenizer,
                               data_options(flags.config), static_cast<std::size_t>(flags.limit));
  }
  catch_interrupts();
  const Stopwatch watch;
  const auto loss = measure_loss(flags, loaded, split);
  Json json{{"split", split.report.split}, {"loss", loss.loss},       {"perplexity", loss.perplexity()},
            {"tokens", loss.tokens},       {"batches", loss.batches}, {"seconds", watch.seconds()}};
  if (!args.json()) {
    fmt::print("{}: loss {:.4f}, perplexity {:.3f}, {} supervised tokens\n", split.report.path, loss.loss,
               loss.perplexity(), with_commas(loss.tokens));
  }
  if (flags.generate && interrupt_signal().load() == 0) {
    const auto scores = measure_answers(flags, loaded, questions);
    json.update(answers_json(questions, scores));
    if (!args.json()) {
      print_answers(flags, questions, scores);
    }
  }
  json["peak_memory_gb"] = gigabytes(mx::get_peak_memory());
  if (args.json()) {
    print_json(json);
  }
  const int signal = interrupt_signal().load();
  return signal != 0 ? interrupt_exit_code(signal) : 0;
}

} // namespace temper::cli
