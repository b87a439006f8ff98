#include "temper/infer/generate_batch.h"

#include <optional>

#include "temper/base/clock.h"
#include "temper/infer/answer.h"

namespace temper {
namespace {

// The answers that grow, from their prompts' being taken up to their end.
class Answers {
 public:
  Answers(std::shared_ptr<const Tokenizer> tokenizer, const std::vector<BatchPrompt>& prompts,
          const GenerationOptions& options, AnswerCallback on_answer, BatchSpeed& speed)
      : tokenizer_(std::move(tokenizer)),
        prompts_(prompts),
        options_(options),
        on_answer_(std::move(on_answer)),
        speed_(speed),
        growing_(prompts.size()),
        begun_(prompts.size(), 0.0),
        results_(prompts.size()) {
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      results_[i].prompt_tokens = static_cast<int>(prompts[i].tokens.size());
    }
  }

  void begin(std::size_t index) {
    const int own = prompts_[index].max_tokens;
    growing_[index].emplace(tokenizer_, options_, own > 0 ? own : options_.max_tokens);
    growing_[index]->result.prompt_tokens = results_[index].prompt_tokens;
    begun_[index] = watch_.seconds();
  }

  bool add(std::size_t index, std::int32_t token) {
    auto& answer = *growing_[index];
    auto& result = answer.result;
    const double seconds = watch_.seconds() - begun_[index];
    result.prompt_seconds = result.tokens.empty() ? seconds : result.prompt_seconds;
    result.generate_seconds = seconds - result.prompt_seconds;
    answer.add(token);
    if (answer.is_finished()) {
      close(index);
      return false;
    }
    return true;
  }

  std::vector<GenerationResult> finish() {
    for (std::size_t i = 0; i < results_.size(); ++i) {
      if (growing_[i]) {
        growing_[i]->finish("cancelled");
        close(i);
      } else if (results_[i].finish_reason.empty()) {
        results_[i].finish_reason = "cancelled";
      }
    }
    return std::move(results_);
  }

 private:
  void close(std::size_t index) {
    auto& result = results_[index];
    result = std::move(growing_[index]->result);
    growing_[index].reset();
    result.peak_bytes = static_cast<std::int64_t>(mx::get_peak_memory());
    speed_.tokens += static_cast<std::int64_t>(result.tokens.size());
    if (on_answer_) {
      on_answer_(index, result);
    }
  }

  std::shared_ptr<const Tokenizer> tokenizer_;
  const std::vector<BatchPrompt>& prompts_;
  const GenerationOptions& options_;
  AnswerCallback on_answer_;
  BatchSpeed& speed_;
  std::vector<std::optional<Answer>> growing_;
  std::vector<double> begun_; // seconds
  std::vector<GenerationResult> results_;
  Stopwatch watch_;
};

} // namespace

std::vector<GenerationResult> answer_prompts(const ModelView& model,
                                             const std::shared_ptr<const Tokenizer>& tokenizer,
                                             const std::vector<BatchPrompt>& prompts,
                                             const GenerationOptions& options, const AnswerCallback& on_answer,
                                             BatchSpeed* speed) {
  validate(options);
  BatchSpeed unread;
  auto& taken = speed != nullptr ? *speed : unread;
  Answers answers(tokenizer, prompts, options, on_answer, taken);
  const BatchOptions batch{options.sampling, options.max_tokens, options.prefill_chunk, options.batch_size,
                           options.cancelled};
  run_batch(
      model, prompts, batch, [&](std::size_t index) { answers.begin(index); },
      [&](std::size_t index, std::int32_t token) { return answers.add(index, token); }, taken);
  return answers.finish();
}

std::vector<GenerationResult> generate_batch(const ModelView& model,
                                             const std::shared_ptr<const Tokenizer>& tokenizer,
                                             const std::vector<std::vector<std::int32_t>>& prompts,
                                             const GenerationOptions& options,
                                             const AnswerCallback& on_answer) {
  std::vector<BatchPrompt> texts;
  texts.reserve(prompts.size());
  for (const auto& prompt : prompts) {
    texts.push_back({prompt, texts.size(), 0});
  }
  return answer_prompts(model, tokenizer, texts, options, on_answer);
}

} // namespace temper
