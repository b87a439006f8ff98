#include "temper/nn/host_kernels.h"

#include <cmath>

#include "temper/base/parallel.h"
#include "temper/nn/host_simd.h"

namespace temper::host {
namespace {

constexpr std::size_t kElementGrain = 16384; // elements a piece: some ten microseconds of work

std::size_t row_grain(std::size_t features) {
  return kElementGrain / (features + 1) + 1;
}

TEMPER_CLONES void swiglu_piece(const float* __restrict gate, const float* __restrict up, float* __restrict out,
                                std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    out[i] = gate[i] * sigmoid(gate[i]) * up[i];
  }
}

TEMPER_CLONES void swiglu_gradient_piece(const float* __restrict gate, const float* __restrict up,
                                         const float* __restrict d_out, float* __restrict d_gate,
                                         float* __restrict d_up, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    const float s = sigmoid(gate[i]);
    const float silu = gate[i] * s;
    d_up[i] = d_out[i] * silu;
    d_gate[i] = d_out[i] * up[i] * (s + silu * (1.0F - s));
  }
}

TEMPER_CLONES void rms_norm_rows(const float* __restrict x, const float* __restrict weight, float eps,
                                 float* __restrict out, std::size_t rows, std::size_t features) {
  for (std::size_t n = 0; n < rows; ++n, x += features, out += features) {
    const float squares = lane_sum(features, [x](std::size_t i) { return x[i] * x[i]; });
    const float inverse = 1.0F / std::sqrt(squares / static_cast<float>(features) + eps);
    for (std::size_t i = 0; i < features; ++i) {
      out[i] = x[i] * inverse * weight[i];
    }
  }
}

// With r = 1 / rms: dx = r (w dy - x r^2 mean(x w dy)), dw = x r dy.
TEMPER_CLONES void rms_norm_gradient_rows(const float* __restrict x, const float* __restrict weight, float eps,
                                          const float* __restrict d_out, float* __restrict d_x,
                                          float* __restrict d_weight, std::size_t rows, std::size_t features) {
  const auto count = static_cast<float>(features);
  for (std::size_t n = 0; n < rows; ++n, x += features, d_out += features, d_x += features) {
    const float squares = lane_sum(features, [x](std::size_t i) { return x[i] * x[i]; });
    const float dot = lane_sum(features, [=](std::size_t i) { return x[i] * weight[i] * d_out[i]; });
    const float inverse = 1.0F / std::sqrt(squares / count + eps);
    const float pull = inverse * inverse * dot / count;
    for (std::size_t i = 0; i < features; ++i) {
      d_x[i] = inverse * (weight[i] * d_out[i] - x[i] * pull);
    }
    if (d_weight != nullptr) {
      for (std::size_t i = 0; i < features; ++i) {
        d_weight[i] = x[i] * inverse * d_out[i];
      }
      d_weight += features;
    }
  }
}

TEMPER_CLONES void rotate_head(const float* __restrict x, const float* __restrict cos,
                               const float* __restrict sin, float direction, float* __restrict out,
                               std::size_t head_dim, std::size_t half) {
  for (std::size_t k = 0; k < half; ++k) {
    const float s = sin[k] * direction;
    out[k] = x[k] * cos[k] - x[k + half] * s;
    out[k + half] = x[k + half] * cos[k] + x[k] * s;
  }
  for (std::size_t k = 2 * half; k < head_dim; ++k) {
    out[k] = x[k];
  }
}

TEMPER_CLONES float row_cross_entropy(const float* __restrict logits, std::int32_t target, float weight,
                                      float* __restrict d_logits, std::size_t vocab) {
  const float largest = lane_max(logits, vocab);
  float total = 0.0F;
  if (d_logits == nullptr) {
    total = lane_sum(vocab, [=](std::size_t v) { return fast_exp(logits[v] - largest); });
  } else {
    for (std::size_t v = 0; v < vocab; ++v) {
      d_logits[v] = fast_exp(logits[v] - largest);
    }
    total = lane_sum(vocab, [=](std::size_t v) { return d_logits[v]; });
    const float factor = weight / total;
    for (std::size_t v = 0; v < vocab; ++v) {
      d_logits[v] *= factor;
    }
    d_logits[target] -= weight;
  }
  return weight * (std::log(total) + largest - logits[target]);
}

} // namespace

void swiglu(const float* gate, const float* up, float* out, std::size_t count) {
  parallel_for(count, kElementGrain, [=](std::size_t begin, std::size_t end) {
    swiglu_piece(gate + begin, up + begin, out + begin, end - begin);
  });
}

void swiglu_gradient(const float* gate, const float* up, const float* d_out, float* d_gate, float* d_up,
                     std::size_t count) {
  parallel_for(count, kElementGrain, [=](std::size_t begin, std::size_t end) {
    swiglu_gradient_piece(gate + begin, up + begin, d_out + begin, d_gate + begin, d_up + begin, end - begin);
  });
}

void rms_norm(const float* x, const float* weight, float eps, float* out, std::size_t rows,
              std::size_t features) {
  parallel_for(rows, row_grain(features), [=](std::size_t begin, std::size_t end) {
    rms_norm_rows(x + begin * features, weight, eps, out + begin * features, end - begin, features);
  });
}

void rms_norm_gradient(const float* x, const float* weight, float eps, const float* d_out, float* d_x,
                       float* d_weight_rows, std::size_t rows, std::size_t features) {
  parallel_for(rows, row_grain(features), [=](std::size_t begin, std::size_t end) {
    const auto at = begin * features;
    rms_norm_gradient_rows(x + at, weight, eps, d_out + at, d_x + at,
                           d_weight_rows != nullptr ? d_weight_rows + at : nullptr, end - begin, features);
  });
}

void rotate(const float* x, const float* cos, const float* sin, float direction, float* out, std::size_t rows,
            std::size_t heads, std::size_t head_dim, std::size_t half) {
  parallel_for(rows, row_grain(heads * head_dim), [=](std::size_t begin, std::size_t end) {
    for (std::size_t n = begin; n < end; ++n) {
      for (std::size_t h = 0; h < heads; ++h) {
        const auto at = (n * heads + h) * head_dim;
        rotate_head(x + at, cos + n * half, sin + n * half, direction, out + at, head_dim, half);
      }
    }
  });
}

void cross_entropy(const float* logits, const std::int32_t* targets, const float* weights, float* losses,
                   float* d_logits, std::size_t rows, std::size_t vocab) {
  parallel_for(rows, row_grain(vocab), [=](std::size_t begin, std::size_t end) {
    for (std::size_t n = begin; n < end; ++n) {
      losses[n] = row_cross_entropy(logits + n * vocab, targets[n], weights[n],
                                    d_logits != nullptr ? d_logits + n * vocab : nullptr, vocab);
    }
  });
}

} // namespace temper::host
