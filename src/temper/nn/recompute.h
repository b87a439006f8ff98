// Trading arithmetic for memory in the backward pass.
#pragma once

#include <functional>
#include <utility>
#include <vector>

#include "temper/nn/params.h"

namespace temper {

using ArrayFunction = std::function<std::vector<mx::array>(const std::vector<mx::array>&)>;

// `f`, keeping only its inputs for the backward pass and running again there, not before its cotangents are
// known: else MLX would recompute every layer ahead of time and hold what that makes. `f` must be
// differentiable in each input; arrays that need no gradient are captured by value. Lazy.
ArrayFunction recomputed(const ArrayFunction& f);

// What a function that runs twice keeps of its first run: arrays that cost more to compute than to hold.
class Kept {
 public:
  // The first run, which keeps.
  Kept() = default;
  // The second, which is given what the first kept.
  explicit Kept(std::vector<mx::array> arrays) : arrays_(std::move(arrays)), replays_(true) {
  }

  bool replays() const {
    return replays_;
  }
  void put(const mx::array& array) {
    arrays_.push_back(array);
  }
  // In the order of put().
  mx::array next() {
    return arrays_.at(next_++);
  }
  const std::vector<mx::array>& arrays() const {
    return arrays_;
  }

 private:
  std::vector<mx::array> arrays_;
  std::size_t next_ = 0;
  bool replays_ = false;
};

// `make()`, kept in a first run and found in a second; without `kept` no more than that. Lazy.
mx::array kept_or(Kept* kept, const std::function<mx::array()>& make);

// f(inputs), kept in a first run; in a second the array found, with the gradient that f has, which runs again
// for it once the cotangent is there. `f` as for recomputed(). Lazy.
mx::array kept_result(Kept* kept, const std::function<mx::array(const std::vector<mx::array>&)>& f,
                      const std::vector<mx::array>& inputs);

using KeepingFunction = std::function<std::vector<mx::array>(const std::vector<mx::array>& inputs, Kept& kept)>;

// As recomputed(), but the second run finds what the first one kept: of a chain of operations the costly
// results are kept, the cheap ones made again. The gradients of the first `num_streams` inputs leave only once
// those of the others, the parameters, are formed, so that what these read is let go. Source: selective
// recomputation, Korthikanti et al. 2022, arXiv:2205.05198, section 5. Lazy.
ArrayFunction partly_recomputed(const KeepingFunction& f, std::size_t num_streams);

} // namespace temper
