#include "cli/generate_file.h"

#include <cstdio>
#include <optional>
#include <vector>

#include <fmt/format.h>
#include <unistd.h>

#include "cli/interrupt.h"
#include "temper/base/clock.h"
#include "temper/base/error.h"
#include "temper/base/log.h"
#include "temper/data/content_hash.h"
#include "temper/infer/answer_file.h"
#include "temper/infer/fingerprint.h"
#include "temper/infer/generate_batch.h"
#include "temper/infer/prompt_file.h"
#include "temper/nn/device.h"

namespace temper::cli {
namespace {

// What decides the answers, so that those of another run are not taken for this one's.
std::string run_hash(const ModelFlags& flags, const LoadedModel& loaded, const std::vector<PromptRow>& rows,
                     const GenerationOptions& options) {
  ContentHash hash;
  hash.add_text(weights_fingerprint(loaded.model.path)).add_text(weights_fingerprint(flags.adapter));
  const auto& s = options.sampling;
  hash.add_text(
      dump(Json{dtype_name(loaded.model.dtype), s.temperature, s.top_p, s.top_k, s.min_p, s.repetition_penalty,
                s.repetition_context, s.seed, options.max_tokens, options.stop}));
  for (const auto& row : rows) {
    hash.add_text(dump(row.id)).add_value(row.max_tokens).add_value(row.tokens.size());
    hash.add(row.tokens.data(), row.tokens.size() * sizeof(row.tokens.front()));
  }
  return hash.hex();
}

Json answer_json(const PromptRow& row, const GenerationResult& answer) {
  Json json = Json::object();
  if (!row.id.is_null()) {
    json["id"] = row.id;
  }
  json["line"] = row.line;
  json["prompt"] = row.text;
  json["text"] = answer.text;
  json["tokens"] = answer.tokens.size();
  json["finish_reason"] = answer.finish_reason;
  json["prompt_tokens"] = answer.prompt_tokens;
  return json;
}

// How far it is, on one line of a terminal, or now and then on a line of its own.
class Progress {
 public:
  explicit Progress(std::size_t total) : total_(total), interactive_(::isatty(STDERR_FILENO) == 1) {
  }

  void show(std::size_t done, std::int64_t tokens) {
    if (since_shown_.seconds() < (interactive_ ? 0.2 : 10.0) && shown_) {
      return;
    }
    const double rate = static_cast<double>(tokens) / std::max(watch_.seconds(), 1e-9);
    const auto line = fmt::format("{} of {} answered, {:.0f} tokens/s", done, total_, rate);
    if (interactive_) {
      fmt::print(stderr, "\r\033[K{}", line);
      std::fflush(stderr);
    } else if (shown_) {
      log::info(line);
    }
    shown_ = true;
    since_shown_.restart();
  }

  void finish() const {
    if (interactive_ && shown_) {
      std::fputs("\r\033[K", stderr);
    }
  }

 private:
  std::size_t total_;
  bool interactive_;
  bool shown_ = false;
  Stopwatch watch_;
  Stopwatch since_shown_;
};

// Where answers go: a file, standard output in the prompts' order, or the summary's JSON.
class Answers {
 public:
  Answers(const std::vector<PromptRow>& rows, std::optional<AnswerFile>& file, bool json)
      : rows_(rows), file_(file), json_(json), waiting_(rows.size()) {
  }

  bool has(std::size_t index) const {
    return file_ && file_->has(index);
  }
  void add(std::size_t index, const GenerationResult& answer) {
    ++count_;
    auto json = answer_json(rows_[index], answer);
    if (file_) {
      file_->add(index, json);
      return;
    }
    waiting_[index] = std::move(json);
    while (!json_ && next_ < waiting_.size() && !waiting_[next_].is_null()) {
      print(waiting_[next_++]);
    }
  }
  // The rest of what there is, in order. `whole`: every prompt is answered.
  void finish(bool whole) {
    for (; !json_ && next_ < waiting_.size(); ++next_) {
      if (!waiting_[next_].is_null()) {
        print(waiting_[next_]);
      }
    }
    if (file_ && whole) {
      file_->finish();
    }
  }
  std::size_t count() const {
    return count_;
  }
  Json results() const {
    auto results = Json::array();
    for (const auto& answer : waiting_) {
      if (!answer.is_null()) {
        results.push_back(answer);
      }
    }
    return results;
  }

 private:
  static void print(Json& answer) {
    const auto line = dump(answer) + "\n";
    std::fwrite(line.data(), 1, line.size(), stdout);
    answer = Json::object(); // no longer needed
  }

  const std::vector<PromptRow>& rows_;
  std::optional<AnswerFile>& file_;
  bool json_;
  std::vector<Json> waiting_;
  std::size_t next_ = 0;
  std::size_t count_ = 0;
};

Json summary(const BatchSpeed& speed, std::size_t prompts, std::size_t answers) {
  return {{"prompts", prompts},
          {"answers", answers},
          {"prompt_tokens", speed.prompt_tokens},
          {"reused_tokens", speed.reused_tokens},
          {"tokens", speed.tokens},
          {"seconds", speed.seconds},
          {"prompt_tokens_per_second", speed.prompt_tokens_per_second()},
          {"tokens_per_second", speed.tokens_per_second()},
          {"answers_per_second", speed.seconds > 0 ? static_cast<double>(answers) / speed.seconds : 0.0},
          {"peak_memory_gb", memory_use().peak_gb}};
}

std::string describe(const Json& s) {
  return fmt::format(
      "{} answers in {:.1f} s ({:.2f} a second); prompts: {} tokens, {:.1f} tokens/s; answers: {} tokens, "
      "{:.1f} "
      "tokens/s; peak memory {:.2f} GB",
      s["answers"].get<std::size_t>(), s["seconds"].get<double>(), s["answers_per_second"].get<double>(),
      s["prompt_tokens"].get<std::int64_t>(), s["prompt_tokens_per_second"].get<double>(),
      s["tokens"].get<std::int64_t>(), s["tokens_per_second"].get<double>(), s["peak_memory_gb"].get<double>());
}

} // namespace

void PromptFileFlags::add_to(Args& args) {
  args.group("Many prompts");
  args.add("prompts", &prompts,
           "a file of prompts: JSON Lines of {\"prompt\"} or {\"messages\"}, or a text's lines")
      .metavar("FILE");
  args.add("output", &output, "write the answers here, a JSON line each, in the prompts' order")
      .metavar("FILE");
  args.add("resume", &resume, "go on with the answers that a run cut short has left in FILE.partial");
  args.add("batch_size", &batch_size, "prompts answered at once").at_least(1);
}

int answer_prompt_file(const PromptFileFlags& flags, const ModelFlags& model, const PromptOptions& prompts,
                       GenerationOptions options, bool json) {
  std::vector<PromptRow> rows;
  const auto loaded = load(model, [&](const Tokenizer& tokenizer, const DecoderSpec& spec, const Json& config) {
    rows = read_prompt_file(flags.prompts, tokenizer, prompts, context_length(spec, config));
  });
  std::optional<AnswerFile> file;
  if (!flags.output.empty()) {
    file.emplace(flags.output, run_hash(model, loaded, rows, options), rows.size(), flags.resume);
  }
  Answers answers(rows, file, json);
  std::vector<BatchPrompt> waiting;
  std::vector<std::size_t> places; // in the file
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (!answers.has(i)) {
      waiting.push_back({std::move(rows[i].tokens), i, rows[i].max_tokens});
      places.push_back(i);
    }
  }
  const auto before = rows.size() - waiting.size();
  if (before > 0) {
    log::info(fmt::format("{} of {} prompts were answered before", before, rows.size()));
  }
  catch_interrupts();
  mx::reset_peak_memory();
  options.batch_size = flags.batch_size;
  Progress progress(rows.size());
  BatchSpeed speed;
  answer_prompts(
      loaded.view(), loaded.tokenizer, waiting, options,
      [&](std::size_t index, const GenerationResult& answer) {
        if (answer.finish_reason != "cancelled") {
          answers.add(places[index], answer);
        }
        progress.show(before + answers.count(), speed.tokens);
      },
      &speed);
  progress.finish();
  const bool whole = answers.count() == waiting.size();
  answers.finish(whole);
  auto result = summary(speed, rows.size(), answers.count());
  if (json) {
    if (flags.output.empty()) {
      result["results"] = answers.results();
    }
    print_json(result);
  }
  log::info(describe(result));
  if (whole) {
    return 0;
  }
  log::warn(fmt::format("interrupted: {} of {} prompts are answered{}", before + answers.count(), rows.size(),
                        file ? "; --resume goes on" : ""));
  return interrupt_exit_code(interrupt_signal().load());
}

} // namespace temper::cli
