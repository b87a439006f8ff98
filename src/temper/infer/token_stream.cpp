#include "temper/infer/token_stream.h"

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "temper/base/error.h"

namespace temper {
namespace {

// A chat's next turn seldom writes the end of this turn's prompt as it stood (a template may open the
// assistant's turn otherwise than it shows it later), so caches that can't be cut back are marked before it
// too.
constexpr int kTurnOpening = 16;

// Tokens that a pass costs beside those it reads: what sharing must save.
constexpr int kPassOverhead = 64;

void check_prompts(const std::vector<NewText>& prompts, int vocab_size) {
  for (const auto& prompt : prompts) {
    if (prompt.tokens.empty()) {
      throw ConfigError("prompt: it is empty; give at least one token");
    }
    for (const auto token : prompt.tokens) {
      if (token < 0 || token >= vocab_size) {
        throw ModelError("prompt: token " + std::to_string(token) + " is beyond the model's vocabulary of " +
                         std::to_string(vocab_size) + "; tokenizer and model do not belong together");
      }
    }
  }
}

// The prompts as a matrix [B, W], padded on the left as TextRows::text.
mx::array pad_left(const std::vector<NewText>& prompts, std::size_t width) {
  std::vector<std::int32_t> cells;
  cells.reserve(prompts.size() * width);
  for (const auto& prompt : prompts) {
    cells.insert(cells.end(), width - prompt.tokens.size(), prompt.tokens.front());
    cells.insert(cells.end(), prompt.tokens.begin(), prompt.tokens.end());
  }
  return mx::array(cells.data(), {static_cast<int>(prompts.size()), static_cast<int>(width)}, mx::int32);
}

mx::array columns(const mx::array& x_BT, int begin, int end) {
  return begin == 0 && end == x_BT.shape(1) ? x_BT : mx::slice(x_BT, {0, begin}, {x_BT.shape(0), end});
}

int common_length(std::span<const std::int32_t> a, std::span<const std::int32_t> b) {
  return static_cast<int>(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
}

std::size_t longest(const std::vector<NewText>& prompts) {
  std::size_t width = 0;
  for (const auto& prompt : prompts) {
    width = std::max(width, prompt.tokens.size());
  }
  return width;
}

// Of each prompt's `shared` first tokens those that stand before column `shared`, the prompts right-aligned.
std::vector<int> cuts(const std::vector<NewText>& prompts, int shared) {
  const int width = static_cast<int>(longest(prompts));
  std::vector<int> lengths;
  lengths.reserve(prompts.size());
  for (const auto& prompt : prompts) {
    lengths.push_back(std::max(0, shared - (width - static_cast<int>(prompt.tokens.size()))));
  }
  return lengths;
}

bool keeps_every_key(const DecoderSpec& spec) {
  return std::all_of(spec.layers.begin(), spec.layers.end(), [](const LayerSpec& layer) {
    return layer.mixer == Mixer::attention && layer.window == 0;
  });
}

} // namespace

TokenStream::TokenStream(const ModelView& model, const SamplerOptions& sampling, int prefill_chunk)
    : model_(model),
      sampler_(sampling),
      prefill_chunk_(std::max(1, prefill_chunk)),
      can_cut_(keeps_every_key(*model.spec)),
      rows_{KvCache(*model.spec), {}, {}},
      prefix_{KvCache(*model.spec), {0}, {}} {
}

void TokenStream::set_sampling(const SamplerOptions& sampling, int prefill_chunk) {
  sampler_ = Sampler(sampling);
  prefill_chunk_ = std::max(1, prefill_chunk);
}

void TokenStream::reset() {
  rows_ = {KvCache(*model_.spec), {}, {}};
  known_.clear();
}

PromptCache TokenStream::cached(int length) const {
  PromptCache cached{{}, rows_.cache};
  const bool turned = rope_stage(*model_.spec, length) != rope_stage(*model_.spec, rows_.cache.offset());
  cached.cache.trim(known_.empty() || turned ? 0 : can_cut_ ? length : std::max(0, length - kTurnOpening));
  cached.tokens.assign(known_.begin(), known_.begin() + cached.cache.offset());
  return cached;
}

void TokenStream::adopt(PromptCache cached) {
  reset();
  rows_.cache = std::move(cached.cache);
  known_ = std::move(cached.tokens);
}

bool TokenStream::start(const std::vector<std::vector<std::int32_t>>& prompts, const Cancelled& cancelled) {
  std::vector<NewText> texts;
  texts.reserve(prompts.size());
  for (const auto& prompt : prompts) {
    texts.push_back({prompt, texts.size()});
  }
  if (prompts.size() != 1) {
    reset();
    return refill({}, texts, cancelled);
  }
  check_prompts(texts, model_.spec->vocab_size);
  num_reused_ = take_up(prompts.front());
  auto cache = std::move(rows_.cache);
  reset();
  auto started = prefill(texts, std::move(cache), !can_cut_, cancelled);
  if (!started) {
    return false;
  }
  rows_ = std::move(*started);
  known_ = prompts.front();
  return true;
}

// Cuts the caches back to what of `prompt` they hold already, and returns how much that is. The last token is
// read in any case: its hidden state gives the first new token.
int TokenStream::take_up(std::span<const std::int32_t> prompt) {
  // Some ropes turn every key by an angle that depends on the text's length.
  const int length = static_cast<int>(prompt.size());
  const bool same_angles = rope_stage(*model_.spec, rows_.cache.offset()) == rope_stage(*model_.spec, length);
  const int common = same_angles ? std::min(common_length(known_, prompt), length - 1) : 0;
  return rows_.cache.trim(common);
}

bool TokenStream::refill(const std::vector<std::int32_t>& kept, const std::vector<NewText>& prompts,
                         const Cancelled& cancelled) {
  check_prompts(prompts, model_.spec->vocab_size);
  num_reused_ = 0;
  const int shared = num_shared(prompts);
  auto fresh =
      prefill(prompts, shared > 0 ? read_shared(prompts, shared) : KvCache(*model_.spec), false, cancelled);
  if (!fresh) {
    return false;
  }
  if (kept.empty()) {
    rows_ = std::move(*fresh);
  } else {
    temper::keep_rows(rows_, kept);
    rows_ = join_rows(std::move(rows_), std::move(*fresh));
  }
  known_.clear();
  if (rows_.num_rows() == 1) {
    known_.assign(prompts.front().tokens.begin(), prompts.front().tokens.end());
  }
  return true;
}

// How many tokens of the prompts' common beginning are worth reading once for all.
int TokenStream::num_shared(const std::vector<NewText>& prompts) const {
  const auto& first = prompts.front().tokens;
  int shared = static_cast<int>(first.size()) - 1;
  for (const auto& prompt : prompts) {
    shared =
        std::min({shared, common_length(first, prompt.tokens), static_cast<int>(prompt.tokens.size()) - 1});
  }
  for (const auto& prompt : prompts) {
    if (rope_stage(*model_.spec, static_cast<int>(prompt.tokens.size())) != 0) {
      return 0; // the beginning alone would be turned by other angles
    }
  }
  int saved = 0;
  std::set<int> lengths;
  for (const int length : cuts(prompts, shared)) {
    saved += length;
    lengths.insert(length);
  }
  const int known = std::min(common_length(prefix_tokens_, first), shared);
  const int passes = can_cut_ ? 1 : static_cast<int>(lengths.size());
  return saved > shared - known + passes * kPassOverhead ? shared : 0;
}

// A cache of one row a prompt after column `shared` of the prompts right-aligned: each row holds those of its
// first tokens that stand before it.
KvCache TokenStream::read_shared(const std::vector<NewText>& prompts, int shared) {
  const auto wanted = prompts.front().tokens.first(static_cast<std::size_t>(shared));
  prefix_.cache.trim(std::min(common_length(prefix_tokens_, wanted), prefix_.cache.offset()));
  prefix_tokens_.assign(wanted.begin(), wanted.end());
  num_reused_ = prefix_.cache.offset() - shared;
  const auto lengths = cuts(prompts, shared);
  std::map<int, KvCache> held;
  for (const int length : std::set<int>(lengths.begin(), lengths.end())) {
    if (can_cut_ && held.empty()) {
      read_prefix(shared);
    }
    if (prefix_.cache.reach(length) != length || prefix_.cache.offset() < length) {
      read_prefix(length);
    }
    auto copy = prefix_.cache;
    copy.trim(length);
    held.emplace(length, std::move(copy));
  }
  std::vector<KvCache::Rows> parts;
  for (const int length : lengths) {
    const auto* cache = &held.at(length);
    if (parts.empty() || parts.back().cache != cache) {
      parts.push_back({cache, {}});
    }
    parts.back().rows.push_back(0);
    num_reused_ += length;
  }
  return KvCache::merge(parts);
}

// Brings prefix_ to its first `length` tokens.
void TokenStream::read_prefix(int length) {
  prefix_.cache.trim(length);
  while (prefix_.cache.offset() < length) {
    const int begin = prefix_.cache.offset();
    const int end = std::min(begin + prefill_chunk_, length);
    forward(prefix_, mx::array(prefix_tokens_.data() + begin, {1, end - begin}, mx::int32));
    mx::eval(prefix_.cache.arrays());
  }
  prefix_.cache.mark();
}

// Rows for `prompts` from column cache.offset() on. `marks`: with places where a later text can take up.
std::optional<TextRows> TokenStream::prefill(const std::vector<NewText>& prompts, KvCache cache, bool marks,
                                             const Cancelled& cancelled) {
  const auto width = longest(prompts);
  TextRows rows{std::move(cache), {}, {}};
  std::vector<std::int32_t> starts;
  for (const auto& prompt : prompts) {
    starts.push_back(static_cast<std::int32_t>(width - prompt.tokens.size()));
    rows.draws.push_back({prompt.text, 0});
  }
  set_starts(rows, std::move(starts));
  const auto text = pad_left(prompts, width);
  if (has_repetition_penalty(sampler_.options()) || depends_on_length(*model_.spec)) {
    rows.text = text;
  }
  return read(rows, text, marks, cancelled) ? std::optional(std::move(rows)) : std::nullopt;
}

// Reads `text` from the cache's end on, in chunks, and samples each row's next token.
bool TokenStream::read(TextRows& rows, const mx::array& text_BW, bool marks, const Cancelled& cancelled) {
  const int width = text_BW.shape(1);
  const int turn = marks ? std::max(0, width - kTurnOpening) : 0;
  while (rows.cache.offset() < width) {
    if (cancelled && cancelled()) {
      return false;
    }
    const int begin = rows.cache.offset();
    const int end = std::min(begin + prefill_chunk_, begin < turn ? turn : width);
    const auto hidden = forward(rows, columns(text_BW, begin, end));
    if (marks && (end == turn || end == width)) {
      rows.cache.mark();
    }
    if (end < width) {
      mx::eval(rows.cache.arrays());
    } else {
      rows.ahead = sample(rows, hidden);
      mx::async_eval(*rows.ahead);
    }
  }
  return true;
}

mx::array TokenStream::forward(TextRows& rows, const mx::array& tokens_BT) {
  const int offset = rows.cache.offset();
  const int width = tokens_BT.shape(1);
  DecoderInput input{.tokens_BT = tokens_BT};
  input.attention.cache = &rows.cache;
  input.attention.masks = std::make_shared<std::map<std::array<int, 3>, mx::array>>();
  input.offsets_B = mx::array(offset);
  if (rows.starts_B) {
    const auto column = mx::expand_dims(mx::arange(offset, offset + width, 1, mx::int32), 0);
    input.attention.starts_B = rows.starts_B;
    input.positions_BT = mx::maximum(column - mx::expand_dims(*rows.starts_B, 1), mx::array(0));
    input.offsets_B = mx::array(offset) - *rows.starts_B;
  }
  if (depends_on_length(*model_.spec)) {
    // A chunk's tokens are turned as the whole text's are.
    const int end = std::max(offset + width, rows.text ? rows.text->shape(1) : 0);
    auto lengths = mx::full({1, 1}, end, mx::int32);
    if (rows.starts_B) {
      lengths = lengths - mx::expand_dims(*rows.starts_B, 1);
    }
    input.lengths_BT = mx::broadcast_to(lengths, tokens_BT.shape());
  }
  ForwardContext context{model_.params, model_.lora, std::nullopt};
  return decoder_hidden(*model_.spec, context, input);
}

mx::array TokenStream::sample(const TextRows& rows, const mx::array& hidden_BTE) const {
  const int width = hidden_BTE.shape(1);
  const auto last = mx::slice(hidden_BTE, {0, width - 1, 0}, {hidden_BTE.shape(0), width, hidden_BTE.shape(2)});
  const auto logits =
      mx::squeeze(decoder_logits(*model_.spec, {model_.params, model_.lora, std::nullopt}, last), 1);
  std::optional<mx::array> recent;
  if (rows.text) {
    const int end = rows.text->shape(1);
    recent = columns(*rows.text, std::max(0, end - sampler_.options().repetition_context), end);
  }
  return sampler_.sample(logits, recent, rows.draws);
}

mx::array TokenStream::step(const mx::array& tokens_B) {
  const auto column = mx::expand_dims(tokens_B, 1);
  bool turned = false; // the keys of a row's cache belong to other angles than its new length's
  for (std::size_t row = 0; row < rows_.draws.size(); ++row) {
    ++rows_.draws[row].position;
    const int length = rows_.length(row);
    turned = turned || rope_stage(*model_.spec, length) != rope_stage(*model_.spec, length + 1);
  }
  if (rows_.text) {
    rows_.text = mx::concatenate({*rows_.text, column}, 1);
    if (!depends_on_length(*model_.spec)) {
      const int width = rows_.text->shape(1);
      rows_.text = columns(*rows_.text, std::max(0, width - sampler_.options().repetition_context), width);
    }
  }
  if (turned) {
    rows_.cache.trim(0);
    return sample(rows_, forward(rows_, *rows_.text));
  }
  return sample(rows_, forward(rows_, column));
}

std::vector<std::int32_t> TokenStream::next(bool more) {
  if (!rows_.ahead) {
    throw ConfigError("generation: there is no text to continue; start one first");
  }
  auto current = *rows_.ahead;
  rows_.ahead.reset();
  if (more) {
    rows_.ahead = step(current);
    mx::async_eval(*rows_.ahead);
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
  temper::keep_rows(rows_, rows);
}

} // namespace temper
