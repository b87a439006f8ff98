// Keys and values of the tokens before, so that the next token costs one position instead of all.
// Source: the buffers that grow in steps are mlx-lm's (models/cache.py, KVCache).
// Dims: B rows, G key heads, T new tokens, S stored tokens, D head_dim.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "temper/models/spec.h"
#include "temper/nn/attention.h"

namespace temper {

class KvCache : public KeyValueStore {
 public:
  explicit KvCache(int num_layers);

  int offset() const override;
  // Lazy.
  StoredKeys update(int layer, const mx::array& k, const mx::array& v) override;
  std::vector<mx::array>& state(int layer) override;
  void advance(int columns) override;

  // Forgets every token from `length` on; keeps the buffers for what comes instead.
  void trim(int length);
  // Keeps these rows of the batch (int32), in this order. Lazy.
  void keep_rows(const mx::array& rows);
  // The buffers, for mx::eval.
  std::vector<mx::array> arrays() const;

 private:
  struct Layer {
    std::optional<mx::array> keys; // [B, G, capacity, D]
    std::optional<mx::array> values;
    std::vector<mx::array> state; // of a recurrent layer
  };

  std::vector<Layer> layers_;
  int offset_ = 0;
};

} // namespace temper
