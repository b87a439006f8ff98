// What a model keeps of earlier tokens, so that the next token costs one position instead of all: keys and
// values, as far back as each layer's window reaches, and the states of recurrent layers.
// Source: the buffers that grow in steps are mlx-lm's (models/cache.py, KVCache).
// Dims: B rows, G key heads, T new tokens, S stored tokens, D head_dim.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "temper/models/spec.h"
#include "temper/nn/attention.h"

namespace temper {

// The first of `columns` columns that a window lets the next one see; all of them without a window.
inline int oldest_seen(int window, int columns) {
  return window > 0 ? std::max(0, columns - window + 1) : 0;
}

// Rows share their columns: column c is the c-th of every row, and shorter texts begin with columns of padding.
// A value: a copy shares the arrays and goes its own way. Lazy throughout.
class KvCache : public KeyValueStore {
 public:
  explicit KvCache(const DecoderSpec& spec);

  // Columns passed.
  int offset() const override;
  StoredKeys update(int layer, const mx::array& k, const mx::array& v, int multiple = 1) override;
  std::vector<mx::array>& state(int layer) override;
  void advance(int columns) override;

  // Remembers the present length as one that can be gone back to. The newest four are kept.
  void mark();
  // The most columns, up to `length`, that it can be cut back to: `length` itself unless a window has left keys
  // behind or a state has gone on; then the nearest mark below, or 0.
  int reach(int length) const;
  // Forgets every column from reach(length) on; returns what is left.
  int trim(int length);

  // Keeps these rows of the batch (int32), in this order. Drops the marks.
  void keep_rows(const mx::array& rows);
  // Forgets the first columns, which are padding in every row. Drops the marks.
  void drop_columns(int columns);

  // Rows of a cache: each `row` counts as many times as it is named.
  struct Rows {
    const KvCache* cache;
    std::vector<std::int32_t> rows;
  };
  // All these rows in one cache without marks, padded on the left to the longest's columns. The parts are of
  // one model.
  static KvCache merge(const std::vector<Rows>& parts);

  // The buffers, for mx::eval.
  std::vector<mx::array> arrays() const;

  // What a layer holds, for whoever writes it to disk. Full attention: the columns from 0; windowed: those that
  // are still there, from `first`.
  struct LayerContent {
    std::optional<StoredKeys> keys;
    std::vector<mx::array> state;
  };
  LayerContent content(int layer) const;
  // The inverse, on a fresh cache: `layers` as content() gave them after `columns` columns.
  void restore(const std::vector<LayerContent>& layers, int columns);

 private:
  struct Layer {
    int window = 0; // 0: all earlier keys are kept
    bool recurrent = false;
    std::optional<mx::array> keys; // [B, G, capacity, D]
    std::optional<mx::array> values;
    int begin = 0;                // the column at the buffer's first place; below 0 after drop_columns()
    std::vector<mx::array> state; // of a recurrent layer
  };
  struct Mark {
    int offset;
    std::vector<Layer> layers; // those of full attention empty
  };

  static std::optional<mx::array> merged_buffer(const std::vector<Rows>& parts, std::size_t layer,
                                                std::optional<mx::array> Layer::*member, int begin, int end,
                                                int capacity);
  static std::vector<mx::array> merged_state(const std::vector<Rows>& parts, std::size_t layer);

  bool can_cut(int length) const;
  void clear();

  std::vector<Layer> layers_;
  std::vector<Mark> marks_; // ascending
  int offset_ = 0;
};

} // namespace temper
