#include "temper/infer/kv_cache.h"

#include <algorithm>

namespace temper {
namespace {

constexpr int kGrowth = 256; // positions

// Writes `x` at positions [offset, offset + T) of `buffer`, which grows as needed, and returns what is stored.
mx::array store(std::optional<mx::array>& buffer, const mx::array& x, int offset) {
  const int end = offset + x.shape(2);
  const int capacity = buffer ? buffer->shape(2) : 0;
  if (end > capacity) {
    auto shape = x.shape();
    shape[2] = (end + kGrowth - 1) / kGrowth * kGrowth - capacity;
    const auto space = mx::zeros(shape, x.dtype());
    buffer = buffer ? mx::concatenate({*buffer, space}, 2) : space;
  }
  mx::Shape start(4, 0);
  auto stop = x.shape();
  start[2] = offset;
  stop[2] = end;
  buffer = mx::slice_update(*buffer, x, start, stop);
  start[2] = 0;
  return mx::slice(*buffer, start, stop);
}

} // namespace

KvCache::KvCache(int num_layers) : layers_(static_cast<std::size_t>(num_layers)) {
}

int KvCache::offset() const {
  return offset_;
}

StoredKeys KvCache::update(int layer, const mx::array& k, const mx::array& v) {
  auto& own = layers_.at(static_cast<std::size_t>(layer));
  auto keys = store(own.keys, k, offset_);
  return {std::move(keys), store(own.values, v, offset_), 0};
}

std::vector<mx::array>& KvCache::state(int layer) {
  return layers_.at(static_cast<std::size_t>(layer)).state;
}

void KvCache::advance(int columns) {
  offset_ += columns;
}

void KvCache::trim(int length) {
  offset_ = std::min(offset_, length);
  if (offset_ == 0) {
    // The next text may have another number of rows.
    layers_.assign(layers_.size(), Layer{});
  }
}

void KvCache::keep_rows(const mx::array& rows) {
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

} // namespace temper
