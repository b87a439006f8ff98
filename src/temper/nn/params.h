// Parameters: a flat map from mlx-lm's tensor names to arrays, in the order of the names.
// A forward pass is a pure function of (params, batch); trainable and frozen parameters are two maps.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <mlx/mlx.h>

namespace temper {

namespace mx = mlx::core;

using Params = std::map<std::string, mx::array>;

// The arrays, in name order: what transformations such as compile and vjp take.
std::vector<mx::array> values(const Params& params);

// The inverse of values(): `names`'s keys with `arrays[offset ...]`.
Params with_values(const Params& names, const std::vector<mx::array>& arrays, std::size_t offset = 0);

// Elements over all arrays.
std::int64_t num_elements(const Params& params);

// Bytes over all arrays.
std::int64_t num_bytes(const Params& params);

// Looks a tensor up in trainable parameters first, then in frozen ones.
class ParamView {
 public:
  explicit ParamView(const Params& frozen, const Params* trainable = nullptr)
      : frozen_(&frozen), trainable_(trainable) {
  }

  // nullptr when there is none.
  const mx::array* find(const std::string& name) const;
  // Throws ModelError naming the tensor when there is none.
  const mx::array& at(const std::string& name) const;
  // Those whose names begin with `prefix`.
  Params with_prefix(const std::string& prefix) const;

 private:
  const Params* frozen_;
  const Params* trainable_;
};

// "float32", "bfloat16" ... of a dtype, and back; from_name throws ConfigError for other names.
std::string dtype_name(mx::Dtype dtype);
mx::Dtype dtype_from_name(const std::string& name);

// "[2, 3]".
std::string shape_text(const mx::Shape& shape);

} // namespace temper
