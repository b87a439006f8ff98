#include "temper/infer/generate_batch.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <optional>
#include <unordered_map>

#include "temper/base/clock.h"
#include "temper/infer/answer.h"

namespace temper {
namespace {

// Prompts that have this many first tokens in common are taken up together, the longest stretch that does for
// enough of them.
constexpr std::array<std::size_t, 7> kBeginnings{2048, 1024, 512, 256, 128, 64, 32};

std::uint64_t hash_of(const std::vector<std::int32_t>& tokens, std::size_t count) {
  std::uint64_t hash = 0xcbf29ce484222325ULL;
  for (std::size_t i = 0; i < count; ++i) {
    hash = (hash ^ static_cast<std::uint32_t>(tokens[i])) * 0x100000001b3ULL;
    hash ^= hash >> 29;
  }
  return hash;
}

// A number for each prompt, the same for those whose beginning many share; 0 for all others.
std::vector<std::uint64_t> beginnings(const std::vector<BatchPrompt>& prompts, int batch_size) {
  const auto enough = std::max<std::size_t>(2, static_cast<std::size_t>(batch_size) / 2);
  std::vector<std::uint64_t> group(prompts.size(), 0);
  for (const auto length : kBeginnings) {
    std::unordered_map<std::uint64_t, std::size_t> counts;
    std::vector<std::uint64_t> hashes(prompts.size(), 0);
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      if (group[i] == 0 && prompts[i].tokens.size() > length) {
        hashes[i] = hash_of(prompts[i].tokens, length) | 1U;
        ++counts[hashes[i]];
      }
    }
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      if (hashes[i] != 0 && counts[hashes[i]] >= enough) {
        group[i] = hashes[i];
      }
    }
  }
  return group;
}

double rate(std::int64_t count, double seconds) {
  return count > 0 && seconds > 0 ? static_cast<double>(count) / seconds : 0.0;
}

class Run {
 public:
  Run(const ModelView& model, const std::shared_ptr<const Tokenizer>& tokenizer,
      const std::vector<BatchPrompt>& prompts, const GenerationOptions& options, AnswerCallback on_answer,
      BatchSpeed& speed)
      : tokenizer_(tokenizer),
        prompts_(prompts),
        options_(options),
        on_answer_(std::move(on_answer)),
        speed_(speed),
        stream_(model, options.sampling, options.prefill_chunk),
        order_(batch_order(prompts, options.batch_size)),
        answers_(prompts.size()),
        begun_(prompts.size(), 0.0),
        results_(prompts.size()) {
  }

  std::vector<GenerationResult> finish() {
    while (!cancelled_ && (next_ < prompts_.size() || open_ > 0)) {
      const Stopwatch pass;
      const bool reads = is_refill_due();
      if (reads) {
        refill();
      } else {
        drop_finished();
      }
      if (!cancelled_) {
        step();
      }
      speed_.prompt_seconds += reads ? pass.seconds() : 0.0;
      speed_.seconds = watch_.seconds();
    }
    for (std::size_t i = 0; i < prompts_.size(); ++i) {
      if (answers_[i]) {
        answers_[i]->finish("cancelled");
        close(i);
      } else if (results_[i].finish_reason.empty()) {
        results_[i].finish_reason = "cancelled";
        results_[i].prompt_tokens = static_cast<int>(prompts_[i].tokens.size());
      }
    }
    return std::move(results_);
  }

 private:
  // Joining copies the caches, so several prompts join at once; the last ones as soon as there is room.
  bool is_refill_due() const {
    const auto size = static_cast<std::size_t>(options_.batch_size);
    const auto waiting = prompts_.size() - next_;
    const auto several = std::max<std::size_t>(1, size / 8);
    return waiting > 0 && size - open_ >= std::min(several, waiting);
  }

  std::vector<std::int32_t> open_rows() const {
    std::vector<std::int32_t> rows;
    for (std::size_t row = 0; row < rows_.size(); ++row) {
      if (answers_[rows_[row]]) {
        rows.push_back(static_cast<std::int32_t>(row));
      }
    }
    return rows;
  }

  void keep(const std::vector<std::int32_t>& rows) {
    std::vector<std::size_t> kept;
    kept.reserve(rows.size());
    for (const auto row : rows) {
      kept.push_back(rows_[static_cast<std::size_t>(row)]);
    }
    rows_ = std::move(kept);
  }

  void refill() {
    const double begun = watch_.seconds();
    const auto free = static_cast<std::size_t>(options_.batch_size) - open_;
    std::vector<NewText> texts;
    std::vector<std::size_t> indices;
    while (next_ < prompts_.size() && texts.size() < free) {
      const auto index = order_.indices[next_];
      texts.push_back({prompts_[index].tokens, prompts_[index].text});
      indices.push_back(index);
      if (order_.ends[next_++]) {
        break;
      }
    }
    const auto kept = open_rows();
    if (!stream_.refill(kept, texts, options_.cancelled)) {
      cancelled_ = true;
      return;
    }
    keep(kept);
    for (const auto index : indices) {
      const int own = prompts_[index].max_tokens;
      answers_[index].emplace(tokenizer_, options_, own > 0 ? own : options_.max_tokens);
      answers_[index]->result.prompt_tokens = static_cast<int>(prompts_[index].tokens.size());
      begun_[index] = begun;
      speed_.prompt_tokens += static_cast<std::int64_t>(prompts_[index].tokens.size());
      rows_.push_back(index);
    }
    open_ += indices.size();
    speed_.reused_tokens += stream_.num_reused();
  }

  // With nothing left to take their places, rows that are done leave once they are half of all.
  void drop_finished() {
    if (next_ == prompts_.size() && 2 * open_ <= rows_.size() && open_ > 0) {
      const auto rows = open_rows();
      stream_.keep_rows(rows);
      keep(rows);
    }
  }

  void step() {
    bool more = false;
    for (const auto index : rows_) {
      more = more || (answers_[index] && answers_[index]->wants_two());
    }
    const auto tokens = stream_.next(more);
    cancelled_ = options_.cancelled && options_.cancelled();
    for (std::size_t row = 0; row < rows_.size(); ++row) {
      if (answers_[rows_[row]]) {
        take(rows_[row], tokens[row]);
      }
    }
  }

  void take(std::size_t index, std::int32_t token) {
    auto& answer = *answers_[index];
    const double now = watch_.seconds() - begun_[index];
    if (answer.result.tokens.empty()) {
      answer.result.prompt_seconds = now;
    }
    answer.result.generate_seconds = now - answer.result.prompt_seconds;
    answer.add(token);
    if (answer.is_finished()) {
      close(index);
    }
  }

  void close(std::size_t index) {
    auto& result = results_[index];
    result = std::move(answers_[index]->result);
    answers_[index].reset();
    --open_;
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
  TokenStream stream_;
  BatchOrder order_;
  std::vector<std::optional<Answer>> answers_; // those that run
  std::vector<double> begun_;
  std::vector<GenerationResult> results_;
  std::vector<std::size_t> rows_; // the prompt of each row of the stream; its answer may be finished
  std::size_t open_ = 0;          // rows whose answers are not
  std::size_t next_ = 0;          // in order_
  bool cancelled_ = false;
  Stopwatch watch_;
};

} // namespace

double BatchSpeed::prompt_tokens_per_second() const {
  return rate(prompt_tokens - reused_tokens, prompt_seconds);
}

double BatchSpeed::tokens_per_second() const {
  return rate(tokens, seconds - prompt_seconds);
}

BatchOrder batch_order(const std::vector<BatchPrompt>& prompts, int batch_size) {
  const auto group = beginnings(prompts, batch_size);
  std::unordered_map<std::uint64_t, std::size_t> place; // groups in the order of their first prompts
  for (const auto number : group) {
    place.emplace(number, place.size());
  }
  BatchOrder order;
  order.indices.resize(prompts.size());
  std::iota(order.indices.begin(), order.indices.end(), std::size_t{0});
  std::stable_sort(order.indices.begin(), order.indices.end(), [&](auto a, auto b) {
    const auto place_a = place.at(group[a]);
    const auto place_b = place.at(group[b]);
    return place_a != place_b ? place_a < place_b : prompts[a].tokens.size() > prompts[b].tokens.size();
  });
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const bool last = i + 1 == prompts.size();
    order.ends.push_back(last || group[order.indices[i]] != group[order.indices[i + 1]]);
  }
  return order;
}

std::vector<GenerationResult> answer_prompts(const ModelView& model,
                                             const std::shared_ptr<const Tokenizer>& tokenizer,
                                             const std::vector<BatchPrompt>& prompts,
                                             const GenerationOptions& options, const AnswerCallback& on_answer,
                                             BatchSpeed* speed) {
  validate(options);
  BatchSpeed unread;
  return Run(model, tokenizer, prompts, options, on_answer, speed != nullptr ? *speed : unread).finish();
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
