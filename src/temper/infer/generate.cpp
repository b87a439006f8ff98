#include "temper/infer/generate.h"

#include "temper/base/clock.h"
#include "temper/base/error.h"
#include "temper/base/units.h"
#include "temper/infer/answer.h"

namespace temper {
namespace {

bool is_cancelled(const GenerationOptions& options) {
  return options.cancelled && options.cancelled();
}

} // namespace

double GenerationResult::prompt_tokens_per_second() const {
  return per_second(prompt_tokens - reused_tokens, prompt_seconds);
}

double GenerationResult::tokens_per_second() const {
  return per_second(static_cast<double>(tokens.size()) - 1, generate_seconds);
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

PromptCache Generator::cached(int prompt_tokens) const {
  return stream_ ? stream_->cached(prompt_tokens) : PromptCache{{}, KvCache(*model_.spec)};
}

void Generator::adopt(PromptCache cached) {
  stream({}).adopt(std::move(cached));
}

TokenStream& Generator::stream(const GenerationOptions& options) {
  if (!stream_) {
    stream_ = std::make_unique<TokenStream>(model_, options.sampling);
  }
  stream_->set_sampling(options.sampling, options.prefill_chunk);
  return *stream_;
}

GenerationResult Generator::generate(std::span<const std::int32_t> prompt, const GenerationOptions& options,
                                     const TextCallback& on_text) {
  validate(options);
  auto& texts = stream(options);
  Answer answer(tokenizer_, options, options.max_tokens);
  auto& result = answer.result;
  result.prompt_tokens = static_cast<int>(prompt.size());
  const auto show = [&](const std::string& text) {
    if (on_text && !on_text(text) && !answer.is_finished()) {
      answer.finish("cancelled");
    }
  };
  Stopwatch watch;
  if (!texts.start({{prompt.begin(), prompt.end()}}, options.cancelled)) {
    answer.finish("cancelled");
  }
  result.reused_tokens = texts.num_reused();
  while (!answer.is_finished()) {
    const bool first = result.tokens.empty();
    const auto token = texts.next(answer.wants_two()).front();
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

} // namespace temper
