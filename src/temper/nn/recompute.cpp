#include "temper/nn/recompute.h"

#include <algorithm>

namespace temper {
namespace {

// The first `count` of `gradients` wait for the others.
std::vector<mx::array> parameters_first(std::vector<mx::array> gradients, std::size_t count) {
  if (count < gradients.size()) {
    const auto border = gradients.begin() + static_cast<std::ptrdiff_t>(count);
    const auto streams = mx::depends({gradients.begin(), border}, {border, gradients.end()});
    std::copy(streams.begin(), streams.end(), gradients.begin());
  }
  return gradients;
}

// `forward`, whose backward pass is f's, run again once the cotangents are there.
ArrayFunction with_second_run(const ArrayFunction& forward, const ArrayFunction& f) {
  const auto backward = [f](const std::vector<mx::array>& inputs, const std::vector<mx::array>& cotangents,
                            const std::vector<mx::array>&) {
    return mx::vjp(f, mx::depends(inputs, cotangents), cotangents).second;
  };
  return mx::custom_vjp(forward, backward);
}

} // namespace

ArrayFunction recomputed(const ArrayFunction& f) {
  return with_second_run(f, f);
}

mx::array kept_or(Kept* kept, const std::function<mx::array()>& make) {
  if (kept != nullptr && kept->replays()) {
    return kept->next();
  }
  auto array = make();
  if (kept != nullptr) {
    kept->put(array);
  }
  return array;
}

mx::array kept_result(Kept* kept, const std::function<mx::array(const std::vector<mx::array>&)>& f,
                      const std::vector<mx::array>& inputs) {
  if (kept == nullptr || !kept->replays()) {
    return kept_or(kept, [&] { return f(inputs); });
  }
  const auto found = kept->next();
  const auto again = [f](const std::vector<mx::array>& in) { return std::vector<mx::array>{f(in)}; };
  const auto first = [found](const std::vector<mx::array>&) { return std::vector<mx::array>{found}; };
  return with_second_run(first, again)(inputs)[0];
}

ArrayFunction partly_recomputed(const KeepingFunction& f, std::size_t num_streams) {
  return [f, num_streams](const std::vector<mx::array>& inputs) {
    std::size_t num_outputs = 0;
    // The kept arrays leave as further outputs: that is how the backward pass gets at them.
    const auto forward = [&](const std::vector<mx::array>& in) {
      Kept kept;
      auto out = f(in, kept);
      num_outputs = out.size();
      out.insert(out.end(), kept.arrays().begin(), kept.arrays().end());
      return out;
    };
    auto first = forward(inputs);
    const auto split = static_cast<std::ptrdiff_t>(num_outputs);
    const auto backward = [f, split, num_streams](const std::vector<mx::array>& in,
                                                  const std::vector<mx::array>& cotangents,
                                                  const std::vector<mx::array>& out) {
      const std::vector<mx::array> wanted(cotangents.begin(), cotangents.begin() + split);
      // All that it reads waits for the cotangents: else what comes of kept arrays alone might be made at once.
      auto late = in;
      late.insert(late.end(), out.begin() + split, out.end());
      late = mx::depends(late, wanted);
      const auto num_inputs = static_cast<std::ptrdiff_t>(in.size());
      const std::vector<mx::array> stored(late.begin() + num_inputs, late.end());
      late.erase(late.begin() + num_inputs, late.end());
      const auto again = [f, stored](const std::vector<mx::array>& x) {
        Kept kept(stored);
        return f(x, kept);
      };
      return parameters_first(mx::vjp(again, late, wanted).second, num_streams);
    };
    auto all = mx::custom_vjp([first](const std::vector<mx::array>&) { return first; }, backward)(inputs);
    all.erase(all.begin() + split, all.end());
    return all;
  };
}

} // namespace temper
