#include "temper/infer/generate.h"

#include <algorithm>
#include <numeric>

#include "temper/base/clock.h"
#include "temper/base/error.h"
#include "temper/text/stop_strings.h"

namespace temper {
namespace {

// One answer while it grows.
class Answer {
 public:
  Answer(std::shared_ptr<const Tokenizer> tokenizer, const GenerationOptions& options)
      : tokenizer_(std::move(tokenizer)), detokenizer_(tokenizer_), stops_(options.stop), options_(&options) {
  }

  // Takes the next token and returns the text that may be shown now.
  std::string add(std::int32_t token) {
    const auto& ids = tokenizer_->stop_ids();
    if (options_->stop_at_eos && std::binary_search(ids.begin(), ids.end(), token)) {
      return finish("stop");
    }
    result.tokens.push_back(token);
    auto text = stops_.add(detokenizer_.add(token));
    result.text += text;
    if (stops_.stopped()) {
      result.finish_reason = "stop";
    } else if (static_cast<int>(result.tokens.size()) >= options_->max_tokens) {
      text += finish("length");
    }
    return text;
  }

  // Ends the answer and returns the text that was kept back.
  std::string finish(const std::string& reason) {
    result.finish_reason = reason;
    auto text = stops_.add(detokenizer_.finish());
    text += stops_.finish();
    if (stops_.stopped()) {
      result.finish_reason = "stop";
    }
    result.text += text;
    return text;
  }

  bool is_finished() const {
    return !result.finish_reason.empty();
  }

  GenerationResult result;

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  StreamingDetokenizer detokenizer_;
  StopStrings stops_;
  const GenerationOptions* options_;
};

double rate(double count, double seconds) {
  return count > 0 && seconds > 0 ? count / seconds : 0.0;
}

bool is_cancelled(const GenerationOptions& options) {
  return options.cancelled && options.cancelled();
}

} // namespace

double GenerationResult::prompt_tokens_per_second() const {
  return rate(prompt_tokens - reused_tokens, prompt_seconds);
}

double GenerationResult::tokens_per_second() const {
  return rate(static_cast<double>(tokens.size()) - 1, generate_seconds);
}

void validate(const GenerationOptions& options) {
  validate(options.sampling);
  const auto positive = [](const char* name, int value) {
    if (value < 1) {
      throw ConfigError(std::string(name) + ": " + std::to_string(value) + " given; it must be at least 1");
    }
  };
  positive("max_tokens", options.max_tokens);
  positive("prefill_chunk", options.prefill_chunk);
  positive("batch_size", options.batch_size);
}

Generator::Generator(const ModelView& model, std::shared_ptr<const Tokenizer> tokenizer)
    : model_(model), tokenizer_(std::move(tokenizer)) {
}

void Generator::reset() {
  stream_.reset();
}

GenerationResult Generator::generate(std::span<const std::int32_t> prompt, const GenerationOptions& options,
                                     const TextCallback& on_text) {
  validate(options);
  if (!stream_ || prefill_chunk_ != options.prefill_chunk) {
    stream_ = std::make_unique<TokenStream>(model_, options.sampling, options.prefill_chunk);
    prefill_chunk_ = options.prefill_chunk;
  }
  stream_->set_sampling(options.sampling);
  Answer answer(tokenizer_, options);
  auto& result = answer.result;
  result.prompt_tokens = static_cast<int>(prompt.size());
  const auto show = [&](const std::string& text) {
    if (on_text && !on_text(text) && !answer.is_finished()) {
      answer.finish("cancelled");
    }
  };
  Stopwatch watch;
  if (!stream_->start({{prompt.begin(), prompt.end()}}, options.cancelled)) {
    answer.finish("cancelled");
  }
  result.reused_tokens = stream_->num_reused();
  while (!answer.is_finished()) {
    const bool first = result.tokens.empty();
    const int taken = static_cast<int>(result.tokens.size()) + 1;
    const auto token = stream_->next(taken < options.max_tokens).front();
    if (first) {
      result.prompt_seconds = watch.seconds();
      watch.restart();
    }
    result.generate_seconds = watch.seconds();
    show(answer.add(token));
    if (!answer.is_finished() && is_cancelled(options)) {
      show(answer.finish("cancelled"));
    }
  }
  result.peak_bytes = static_cast<std::int64_t>(mx::get_peak_memory());
  return result;
}

namespace {

// Prompts that run together, until the last of them is answered.
class Batch {
 public:
  Batch(TokenStream& stream, std::vector<std::size_t> indices) : stream_(stream), rows_(std::move(indices)) {
  }

  void run(std::vector<Answer>& answers, const GenerationOptions& options,
           const std::function<void(std::size_t)>& on_answer) {
    Stopwatch watch;
    double first_seconds = 0;
    for (int taken = 1; has_unfinished(answers); ++taken) {
      const auto tokens = stream_.next(taken < options.max_tokens);
      if (taken == 1) {
        first_seconds = watch.seconds();
      }
      const bool cancelled = is_cancelled(options);
      for (std::size_t row = 0; row < rows_.size(); ++row) {
        auto& answer = answers[rows_[row]];
        if (answer.is_finished()) {
          continue;
        }
        answer.add(tokens[row]);
        if (!answer.is_finished() && cancelled) {
          answer.finish("cancelled");
        }
        if (answer.is_finished()) {
          answer.result.prompt_seconds = first_seconds;
          answer.result.generate_seconds = watch.seconds() - first_seconds;
          on_answer(rows_[row]);
        }
      }
      drop_finished(answers, taken < options.max_tokens);
    }
  }

 private:
  bool has_unfinished(const std::vector<Answer>& answers) const {
    return std::any_of(rows_.begin(), rows_.end(), [&](auto index) { return !answers[index].is_finished(); });
  }

  // Once half of the rows are done, the rest go on alone.
  void drop_finished(const std::vector<Answer>& answers, bool more) {
    std::vector<std::int32_t> open;
    std::vector<std::size_t> left;
    for (std::size_t row = 0; row < rows_.size(); ++row) {
      if (!answers[rows_[row]].is_finished()) {
        open.push_back(static_cast<std::int32_t>(row));
        left.push_back(rows_[row]);
      }
    }
    if (more && !open.empty() && 2 * open.size() <= rows_.size()) {
      stream_.keep_rows(open);
      rows_ = std::move(left);
    }
  }

  TokenStream& stream_;
  std::vector<std::size_t> rows_; // the prompt of each row
};

} // namespace

std::vector<GenerationResult> generate_batch(
    const ModelView& model, const std::shared_ptr<const Tokenizer>& tokenizer,
    const std::vector<std::vector<std::int32_t>>& prompts, const GenerationOptions& options,
    const std::function<void(std::size_t, const GenerationResult&)>& on_answer) {
  validate(options);
  std::vector<std::size_t> order(prompts.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](auto a, auto b) { return prompts[a].size() < prompts[b].size(); });
  std::vector<Answer> answers;
  answers.reserve(prompts.size());
  for (const auto& prompt : prompts) {
    answers.emplace_back(tokenizer, options).result.prompt_tokens = static_cast<int>(prompt.size());
  }
  TokenStream stream(model, options.sampling, options.prefill_chunk);
  const auto step = static_cast<std::size_t>(options.batch_size);
  for (std::size_t begin = 0; begin < order.size(); begin += step) {
    const auto end = std::min(begin + step, order.size());
    const std::vector<std::size_t> indices(order.begin() + static_cast<std::ptrdiff_t>(begin),
                                           order.begin() + static_cast<std::ptrdiff_t>(end));
    std::vector<std::vector<std::int32_t>> rows;
    rows.reserve(indices.size());
    for (const auto index : indices) {
      rows.push_back(prompts[index]);
    }
    stream.reset();
    if (!stream.start(rows, options.cancelled)) {
      break;
    }
    Batch(stream, indices).run(answers, options, [&](std::size_t index) {
      answers[index].result.peak_bytes = static_cast<std::int64_t>(mx::get_peak_memory());
      if (on_answer) {
        on_answer(index, answers[index].result);
      }
    });
  }
  std::vector<GenerationResult> results;
  for (auto& answer : answers) {
    if (!answer.is_finished()) {
      answer.finish("cancelled");
    }
    results.push_back(std::move(answer.result));
  }
  return results;
}

} // namespace temper
