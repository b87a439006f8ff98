#include "temper/infer/continuous_batch.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <unordered_map>

#include "temper/base/clock.h"
#include "temper/base/units.h"
#include "temper/infer/token_stream.h"

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

// The texts that run, each in a row of the stream, and those that wait.
class Batch {
 public:
  Batch(const ModelView& model, const std::vector<BatchPrompt>& prompts, const BatchOptions& options,
        BatchSpeed& speed)
      : prompts_(prompts),
        options_(options),
        speed_(speed),
        stream_(model, options.sampling, options.prefill_chunk),
        order_(batch_order(prompts, options.batch_size)) {
  }

  bool has_texts() const {
    return open_ > 0 || next_ < prompts_.size();
  }

  // Joining copies the caches, so several prompts join at once; the last ones as soon as there is room.
  bool is_refill_due() const {
    const auto size = static_cast<std::size_t>(options_.batch_size);
    const auto waiting = prompts_.size() - next_;
    const auto several = std::max<std::size_t>(1, size / 8);
    return waiting > 0 && size - open_ >= std::min(several, waiting);
  }

  // False after a cancellation.
  bool refill(const std::function<void(std::size_t)>& on_begin) {
    const auto indices = next_prompts(static_cast<std::size_t>(options_.batch_size) - open_);
    std::vector<NewText> texts;
    texts.reserve(indices.size());
    for (const auto index : indices) {
      on_begin(index);
      texts.push_back({prompts_[index].tokens, prompts_[index].text});
    }
    const auto kept = open_rows();
    if (!stream_.refill(kept, texts, options_.cancelled)) {
      return false;
    }
    keep(kept);
    for (const auto index : indices) {
      const int own = prompts_[index].max_tokens;
      rows_.push_back({index, own > 0 ? own : options_.max_tokens});
      speed_.prompt_tokens += static_cast<std::int64_t>(prompts_[index].tokens.size());
    }
    open_ += indices.size();
    speed_.reused_tokens += stream_.num_reused();
    return true;
  }

  // With nothing left to take their places, rows that are done leave once they are half of all.
  void drop_finished() {
    if (next_ == prompts_.size() && 2 * open_ <= rows_.size()) {
      const auto rows = open_rows();
      stream_.keep_rows(rows);
      keep(rows);
    }
  }

  void step(const TokenCallback& on_token) {
    const bool more = std::any_of(rows_.begin(), rows_.end(), [](const Row& row) { return row.wanted > 1; });
    const auto tokens = stream_.next(more);
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      auto& row = rows_[i];
      if (row.wanted > 0) {
        row.wanted = on_token(row.prompt, tokens[i]) ? row.wanted - 1 : 0;
        open_ -= row.wanted == 0 ? 1 : 0;
      }
    }
  }

 private:
  struct Row {
    std::size_t prompt;
    int wanted; // tokens; 0: the text has ended
  };

  std::vector<std::size_t> next_prompts(std::size_t count) {
    std::vector<std::size_t> indices;
    while (next_ < prompts_.size() && indices.size() < count) {
      indices.push_back(order_.indices[next_]);
      if (order_.ends[next_++]) {
        break;
      }
    }
    return indices;
  }

  std::vector<std::int32_t> open_rows() const {
    std::vector<std::int32_t> rows;
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      if (rows_[i].wanted > 0) {
        rows.push_back(static_cast<std::int32_t>(i));
      }
    }
    return rows;
  }

  void keep(const std::vector<std::int32_t>& rows) {
    std::vector<Row> kept;
    kept.reserve(rows.size());
    for (const auto row : rows) {
      kept.push_back(rows_[static_cast<std::size_t>(row)]);
    }
    rows_ = std::move(kept);
  }

  const std::vector<BatchPrompt>& prompts_;
  const BatchOptions& options_;
  BatchSpeed& speed_;
  TokenStream stream_;
  BatchOrder order_;
  std::vector<Row> rows_;
  std::size_t open_ = 0; // rows whose texts go on
  std::size_t next_ = 0; // in order_
};

} // namespace

double BatchSpeed::prompt_tokens_per_second() const {
  return per_second(static_cast<double>(prompt_tokens - reused_tokens), prompt_seconds);
}

double BatchSpeed::tokens_per_second() const {
  return per_second(static_cast<double>(tokens), seconds - prompt_seconds);
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

bool run_batch(const ModelView& model, const std::vector<BatchPrompt>& prompts, const BatchOptions& options,
               const std::function<void(std::size_t)>& on_begin, const TokenCallback& on_token,
               BatchSpeed& speed) {
  Batch batch(model, prompts, options, speed);
  const Stopwatch watch;
  bool goes_on = true;
  while (goes_on && batch.has_texts()) {
    const Stopwatch pass;
    const bool reads = batch.is_refill_due();
    if (reads) {
      goes_on = batch.refill(on_begin);
    } else {
      batch.drop_finished();
    }
    if (goes_on) {
      batch.step(on_token);
    }
    speed.prompt_seconds += reads ? pass.seconds() : 0.0;
    speed.seconds = watch.seconds();
    goes_on = goes_on && !(batch.has_texts() && options.cancelled && options.cancelled());
  }
  return goes_on;
}

} // namespace temper
