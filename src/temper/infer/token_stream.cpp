#include "temper/infer/token_stream.h"

#include <algorithm>
#include <string>

#include "temper/base/error.h"

namespace temper {
namespace {

void check_prompts(const std::vector<std::vector<std::int32_t>>& prompts, int vocab_size) {
  for (const auto& prompt : prompts) {
    if (prompt.empty()) {
      throw ConfigError("prompt: it is empty; give at least one token");
    }
    for (const auto token : prompt) {
      if (token < 0 || token >= vocab_size) {
        throw ModelError("prompt: token " + std::to_string(token) + " is beyond the model's vocabulary of " +
                         std::to_string(vocab_size) + "; tokenizer and model do not belong together");
      }
    }
  }
}

// The prompts as a matrix [B, W]. Padding repeats a row's first token, so that whatever looks back at recent
// tokens sees none that the row does not have.
mx::array pad_left(const std::vector<std::vector<std::int32_t>>& prompts, std::size_t width) {
  std::vector<std::int32_t> cells;
  cells.reserve(prompts.size() * width);
  for (const auto& prompt : prompts) {
    cells.insert(cells.end(), width - prompt.size(), prompt.front());
    cells.insert(cells.end(), prompt.begin(), prompt.end());
  }
  return mx::array(cells.data(), {static_cast<int>(prompts.size()), static_cast<int>(width)}, mx::int32);
}

mx::array int_array(const std::vector<std::int32_t>& values) {
  return mx::array(values.data(), {static_cast<int>(values.size())}, mx::int32);
}

mx::array columns(const mx::array& x_BT, int begin, int end) {
  return mx::slice(x_BT, {0, begin}, {x_BT.shape(0), end});
}

} // namespace

TokenStream::TokenStream(const ModelView& model, const SamplerOptions& sampling, int prefill_chunk)
    : model_(model),
      sampler_(sampling),
      prefill_chunk_(std::max(1, prefill_chunk)),
      cache_(model.spec->num_layers) {
}

void TokenStream::set_sampling(const SamplerOptions& sampling) {
  sampler_ = Sampler(sampling);
}

void TokenStream::reset() {
  ahead_.reset();
  text_BT_.reset();
  known_.clear();
  cache_.trim(0);
}

// Some ropes turn every key by an angle that depends on the text's length. What the cache holds is out of date
// where that has changed: with each token (dynamic), or once (longrope).
int TokenStream::stage() const {
  int stage = 0;
  for (const auto length : num_tokens_B_) {
    stage += rope_stage(*model_.spec, length);
  }
  return stage;
}

bool TokenStream::start(const std::vector<std::vector<std::int32_t>>& prompts,
                        const std::function<bool()>& cancelled) {
  check_prompts(prompts, model_.spec->vocab_size);
  const int stage_before = stage();
  ahead_.reset();
  num_generated_ = 0;
  num_tokens_B_.clear();
  num_tokens_B_.reserve(prompts.size());
  for (const auto& prompt : prompts) {
    num_tokens_B_.push_back(static_cast<std::int32_t>(prompt.size()));
  }
  num_reused_ = 0;
  if (prompts.size() == 1 && stage_before == stage()) {
    const auto& prompt = prompts.front();
    const auto [mine, theirs] = std::mismatch(known_.begin(), known_.end(), prompt.begin(), prompt.end());
    // The last prompt token is read again: its hidden state gives the first new token.
    num_reused_ = std::min({static_cast<int>(mine - known_.begin()), cache_.offset(), num_tokens_B_[0] - 1});
    if (is_recurrent(*model_.spec) && num_reused_ < cache_.offset()) {
      num_reused_ = 0; // a state cannot be cut back
    }
  }
  cache_.trim(num_reused_);
  known_.clear();
  return prefill(prompts, cancelled);
}

bool TokenStream::prefill(const std::vector<std::vector<std::int32_t>>& prompts,
                          const std::function<bool()>& cancelled) {
  const int width = *std::max_element(num_tokens_B_.begin(), num_tokens_B_.end());
  const auto text = pad_left(prompts, static_cast<std::size_t>(width));
  text_BT_.reset();
  if (has_repetition_penalty(sampler_.options()) || depends_on_length(*model_.spec)) {
    text_BT_ = text;
  }
  starts_B_.reset();
  if (std::any_of(num_tokens_B_.begin(), num_tokens_B_.end(), [&](int n) { return n != width; })) {
    starts_B_ = mx::array(width) - int_array(num_tokens_B_);
  }
  for (int begin = num_reused_; begin < width; begin += prefill_chunk_) {
    if (cancelled && cancelled()) {
      reset();
      return false;
    }
    const int end = std::min(begin + prefill_chunk_, width);
    const auto hidden = forward(columns(text, begin, end));
    if (end < width) {
      mx::eval(cache_.arrays());
    } else {
      ahead_ = sample(hidden);
      mx::async_eval(*ahead_);
    }
  }
  if (prompts.size() == 1) {
    known_ = prompts.front();
  }
  return true;
}

mx::array TokenStream::forward(const mx::array& tokens_BT) {
  const int offset = cache_.offset();
  const int width = tokens_BT.shape(1);
  DecoderInput input{.tokens_BT = tokens_BT};
  input.attention.cache = &cache_;
  if (starts_B_) {
    const auto column = mx::expand_dims(mx::arange(offset, offset + width, 1, mx::int32), 0);
    input.attention.starts_B = starts_B_;
    input.positions_BT = mx::maximum(column - mx::expand_dims(*starts_B_, 1), mx::array(0));
  }
  if (depends_on_length(*model_.spec)) {
    input.lengths_BT = mx::broadcast_to(mx::expand_dims(int_array(num_tokens_B_), 1), tokens_BT.shape());
  }
  ForwardContext context{model_.params, model_.lora, std::nullopt};
  return decoder_hidden(*model_.spec, context, input);
}

mx::array TokenStream::sample(const mx::array& hidden_BTE) {
  const int width = hidden_BTE.shape(1);
  const auto last = mx::slice(hidden_BTE, {0, width - 1, 0}, {hidden_BTE.shape(0), width, hidden_BTE.shape(2)});
  const auto logits =
      mx::squeeze(decoder_logits(*model_.spec, {model_.params, model_.lora, std::nullopt}, last), 1);
  std::optional<mx::array> recent;
  if (text_BT_) {
    const int end = text_BT_->shape(1);
    recent = columns(*text_BT_, std::max(0, end - sampler_.options().repetition_context), end);
  }
  return sampler_.sample(logits, recent, num_generated_);
}

mx::array TokenStream::step(const mx::array& tokens_B) {
  const auto column = mx::expand_dims(tokens_B, 1);
  ++num_generated_;
  const int stage_before = stage();
  for (auto& count : num_tokens_B_) {
    ++count;
  }
  if (text_BT_) {
    text_BT_ = mx::concatenate({*text_BT_, column}, 1);
  }
  if (stage() != stage_before) {
    cache_.trim(0);
    return sample(forward(*text_BT_));
  }
  return sample(forward(column));
}

std::vector<std::int32_t> TokenStream::next(bool more) {
  if (!ahead_) {
    throw ConfigError("generation: there is no text to continue; start one first");
  }
  auto current = *ahead_;
  ahead_.reset();
  if (more) {
    ahead_ = step(current);
    mx::async_eval(*ahead_);
  }
  mx::eval(current);
  const auto* data = current.data<std::int32_t>();
  std::vector<std::int32_t> tokens(data, data + current.size());
  if (!known_.empty()) {
    known_.push_back(tokens.front());
  }
  return tokens;
}

void TokenStream::keep_rows(const std::vector<std::int32_t>& rows) {
  const auto index = int_array(rows);
  const auto keep = [&](std::optional<mx::array>& array) {
    if (array) {
      array = mx::take(*array, index, 0);
    }
  };
  keep(ahead_);
  keep(text_BT_);
  keep(starts_B_);
  cache_.keep_rows(index);
  std::vector<std::int32_t> counts;
  counts.reserve(rows.size());
  for (const auto row : rows) {
    counts.push_back(num_tokens_B_.at(static_cast<std::size_t>(row)));
  }
  num_tokens_B_ = std::move(counts);
}

} // namespace temper
