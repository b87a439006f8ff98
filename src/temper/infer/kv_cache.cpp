#include "temper/infer/kv_cache.h"

#include <algorithm>

namespace temper {
namespace {

constexpr int kGrowth = 256; // columns
constexpr int kOddLength = 8;
constexpr int kLong = 8192;
constexpr std::size_t kMaxMarks = 4;

int round_up(int columns, int multiple) {
  return (columns + multiple - 1) / multiple * multiple;
}

// Places for so many columns and some to come. CUDA builds a kernel of its own (in a fifth of a second) for
// buffers of each length that 256 divides: faster on long texts, and not worth it on short ones, which grow.
int capacity_for(int columns, int window) {
  if (window > 0) {
    return round_up(columns, kGrowth) + kGrowth + kOddLength;
  }
  return columns < kLong ? round_up(columns, kGrowth) + kOddLength : round_up(columns + columns / 4, kGrowth);
}

// Places [begin, end) of a buffer's third axis.
mx::array places(const mx::array& buffer, int begin, int end) {
  if (begin == 0 && end == buffer.shape(2)) {
    return buffer;
  }
  return mx::slice(buffer, {0, 0, begin, 0}, {buffer.shape(0), buffer.shape(1), end, buffer.shape(3)});
}

void write(mx::array& buffer, const mx::array& x, int place) {
  const mx::Shape stop{x.shape(0), x.shape(1), place + x.shape(2), x.shape(3)};
  buffer = mx::slice_update(buffer, x, {0, 0, place, 0}, stop);
}

// A buffer of `capacity` places that begins with places [begin, end) of `old`.
mx::array moved(const std::optional<mx::array>& old, int begin, int end, int capacity, const mx::array& like) {
  auto shape = like.shape();
  shape[2] = capacity;
  if (!old || begin == end) {
    return mx::zeros(shape, like.dtype());
  }
  shape[2] = capacity - (end - begin);
  return mx::concatenate({places(*old, begin, end), mx::zeros(shape, like.dtype())}, 2);
}

} // namespace

KvCache::KvCache(const DecoderSpec& spec) : layers_(spec.layers.size()) {
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    layers_[i].window = spec.layers[i].window;
    layers_[i].recurrent = spec.layers[i].mixer != Mixer::attention;
  }
}

int KvCache::offset() const {
  return offset_;
}

StoredKeys KvCache::update(int layer, const mx::array& k, const mx::array& v, int multiple) {
  auto& own = layers_.at(static_cast<std::size_t>(layer));
  const int end = offset_ + k.shape(2);
  const int oldest = oldest_seen(own.window, offset_);
  const int first = std::max(own.begin, oldest);
  if (!own.keys || end - own.begin > own.keys->shape(2)) {
    // A windowed layer leaves behind here what no query reaches any more.
    const int capacity = capacity_for(end - first, own.window);
    const int held = offset_ - first;
    const int place = first - own.begin;
    own.keys = moved(own.keys, place, place + held, capacity, k);
    own.values = moved(own.values, place, place + held, capacity, v);
    own.begin = first;
  }
  write(*own.keys, k, offset_ - own.begin);
  write(*own.values, v, offset_ - own.begin);
  const int place = first - own.begin;
  const int stop = std::min(place + round_up(end - first, multiple), own.keys->shape(2));
  return {places(*own.keys, place, stop), places(*own.values, place, stop), first};
}

std::vector<mx::array>& KvCache::state(int layer) {
  return layers_.at(static_cast<std::size_t>(layer)).state;
}

void KvCache::advance(int columns) {
  offset_ += columns;
}

void KvCache::mark() {
  if (offset_ == 0 || (!marks_.empty() && marks_.back().offset == offset_)) {
    return;
  }
  Mark mark{offset_, layers_};
  bool needed = false;
  for (auto& layer : mark.layers) {
    if (layer.window == 0) {
      layer.keys.reset();
      layer.values.reset();
    }
    needed = needed || layer.window > 0 || layer.recurrent;
  }
  if (needed) {
    if (marks_.size() == kMaxMarks) {
      marks_.erase(marks_.begin());
    }
    marks_.push_back(std::move(mark));
  }
}

bool KvCache::can_cut(int length) const {
  return length == offset_ || std::all_of(layers_.begin(), layers_.end(), [&](const Layer& layer) {
           return !layer.recurrent && (layer.window == 0 || layer.begin <= oldest_seen(layer.window, length));
         });
}

int KvCache::reach(int length) const {
  length = std::min(length, offset_);
  if (can_cut(length)) {
    return length;
  }
  int best = 0;
  for (const auto& mark : marks_) {
    best = mark.offset <= length ? mark.offset : best;
  }
  return best;
}

int KvCache::trim(int length) {
  const int target = reach(length);
  std::erase_if(marks_, [&](const Mark& mark) { return mark.offset > target; });
  if (target == 0) {
    clear();
  } else if (!can_cut(target)) {
    const auto& mark = marks_.back();
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      if (layers_[i].window > 0 || layers_[i].recurrent) {
        layers_[i] = mark.layers[i];
      }
    }
  }
  offset_ = target;
  return target;
}

void KvCache::clear() {
  // The next text may have another number of rows, so the buffers go too.
  for (auto& layer : layers_) {
    layer = Layer{.window = layer.window, .recurrent = layer.recurrent, .keys = {}, .values = {}, .state = {}};
  }
  marks_.clear();
  offset_ = 0;
}

void KvCache::keep_rows(const mx::array& rows) {
  marks_.clear();
  for (auto& layer : layers_) {
    if (layer.keys) {
      layer.keys = mx::take(*layer.keys, rows, 0);
      layer.values = mx::take(*layer.values, rows, 0);
    }
    for (auto& state : layer.state) {
      state = mx::take(state, rows, 0);
    }
  }
}

void KvCache::drop_columns(int columns) {
  marks_.clear();
  offset_ -= columns;
  for (auto& layer : layers_) {
    layer.begin -= columns;
  }
}

namespace {

// These rows of `x`, which may be all of them.
mx::array rows_of(const mx::array& x, const std::vector<std::int32_t>& rows) {
  bool all = static_cast<int>(rows.size()) == x.shape(0);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    all = all && rows[i] == static_cast<std::int32_t>(i);
  }
  return all ? x : mx::take(x, mx::array(rows.data(), {static_cast<int>(rows.size())}, mx::int32), 0);
}

// The pieces below each other, zeros for a piece that is missing; none if all are.
std::optional<mx::array> stacked(const std::vector<std::optional<mx::array>>& pieces,
                                 const std::vector<KvCache::Rows>& parts) {
  const auto known = std::find_if(pieces.begin(), pieces.end(), [](const auto& a) { return a.has_value(); });
  if (known == pieces.end()) {
    return std::nullopt;
  }
  std::vector<mx::array> arrays;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    auto shape = (*known)->shape();
    shape[0] = static_cast<int>(parts[i].rows.size());
    arrays.push_back(pieces[i] ? *pieces[i] : mx::zeros(shape, (*known)->dtype()));
  }
  return arrays.size() == 1 ? arrays.front() : mx::concatenate(arrays, 0);
}

} // namespace

// The buffers `member` of the parts' layers `layer`, in places of which the first is column `begin` of `end`.
std::optional<mx::array> KvCache::merged_buffer(const std::vector<Rows>& parts, std::size_t layer,
                                                std::optional<mx::array> Layer::*member, int begin, int end,
                                                int capacity) {
  std::vector<std::optional<mx::array>> pieces;
  for (const auto& part : parts) {
    const auto& own = part.cache->layers_[layer];
    const auto& buffer = own.*member;
    const int shift = end - part.cache->offset_;
    const int first = std::max({begin, shift, own.begin + shift}); // a merged column, as `begin` and `end`
    if (!buffer || first >= end) {
      pieces.push_back(std::nullopt);
      continue;
    }
    const auto held = places(*buffer, first - shift - own.begin, part.cache->offset_ - own.begin);
    pieces.push_back(mx::pad(rows_of(held, part.rows), std::vector<int>{2}, mx::Shape{first - begin},
                             mx::Shape{capacity - (end - begin)}));
  }
  return stacked(pieces, parts);
}

std::vector<mx::array> KvCache::merged_state(const std::vector<Rows>& parts, std::size_t layer) {
  std::size_t slots = 0;
  for (const auto& part : parts) {
    slots = std::max(slots, part.cache->layers_[layer].state.size());
  }
  std::vector<mx::array> merged;
  for (std::size_t slot = 0; slot < slots; ++slot) {
    std::vector<std::optional<mx::array>> pieces;
    for (const auto& part : parts) {
      const auto& state = part.cache->layers_[layer].state;
      pieces.push_back(slot < state.size() ? std::optional(rows_of(state[slot], part.rows)) : std::nullopt);
    }
    merged.push_back(*stacked(pieces, parts));
  }
  return merged;
}

KvCache KvCache::merge(const std::vector<Rows>& parts) {
  KvCache merged = *parts.front().cache;
  merged.clear();
  for (const auto& part : parts) {
    merged.offset_ = std::max(merged.offset_, part.cache->offset_);
  }
  const int end = merged.offset_;
  for (std::size_t i = 0; i < merged.layers_.size(); ++i) {
    auto& own = merged.layers_[i];
    own.begin = oldest_seen(own.window, end);
    const int capacity = capacity_for(end - own.begin + 1, own.window);
    own.keys = merged_buffer(parts, i, &Layer::keys, own.begin, end, capacity);
    own.values = merged_buffer(parts, i, &Layer::values, own.begin, end, capacity);
    own.state = merged_state(parts, i);
  }
  return merged;
}

std::vector<mx::array> KvCache::arrays() const {
  std::vector<mx::array> all;
  for (const auto& layer : layers_) {
    if (layer.keys) {
      all.push_back(*layer.keys);
      all.push_back(*layer.values);
    }
    all.insert(all.end(), layer.state.begin(), layer.state.end());
  }
  return all;
}

KvCache::LayerContent KvCache::content(int layer) const {
  const auto& own = layers_.at(static_cast<std::size_t>(layer));
  LayerContent content{std::nullopt, own.state};
  if (own.keys && offset_ > 0) {
    const int oldest = oldest_seen(own.window, offset_);
    const int first = std::max(own.begin, oldest);
    content.keys = StoredKeys{places(*own.keys, first - own.begin, offset_ - own.begin),
                              places(*own.values, first - own.begin, offset_ - own.begin), first};
  }
  return content;
}

void KvCache::restore(const std::vector<LayerContent>& layers, int columns) {
  clear();
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    auto& own = layers_[i];
    own.state = layers.at(i).state;
    if (layers[i].keys) {
      own.keys = layers[i].keys->keys;
      own.values = layers[i].keys->values;
      own.begin = layers[i].keys->first;
    }
  }
  offset_ = columns;
}

} // namespace temper
