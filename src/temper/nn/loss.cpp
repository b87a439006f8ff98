#include "temper/nn/loss.h"

#include <algorithm>
#include <cstdint>

#include "temper/nn/host_kernels.h"
#include "temper/nn/host_op.h"

namespace temper {
namespace {

// Rows [begin, end) of the selected positions.
struct Chunk {
  mx::array hidden;  // [C, E]
  mx::array targets; // [C]
  mx::array weights; // [C]
};

mx::array rows(const mx::array& x, int begin, int end) {
  mx::Shape start(x.ndim(), 0);
  auto stop = x.shape();
  start[0] = begin;
  stop[0] = end;
  return mx::slice(x, start, stop);
}

Chunk make_chunk(const mx::array& hidden_NE, const LossTargets& t, int begin, int end) {
  return {mx::take(hidden_NE, rows(t.positions_S, begin, end), 0), rows(t.targets_S, begin, end),
          rows(t.weights_S, begin, end)};
}

// A chunk's weighted loss, a scalar, and d loss / d logits, [C, V], in the hidden states' dtype.
struct ChunkLoss {
  mx::array loss;
  mx::array logit_gradient;
};

mx::array chunk_logits(const Chunk& chunk, const mx::array& head_EV) {
  return mx::astype(mx::matmul(chunk.hidden, head_EV), mx::float32);
}

// {losses [C]} or, with `gradient`, {losses [C], logit gradients [C, V]} by the host kernel.
std::vector<mx::array> host_cross_entropy(const mx::array& logits, const Chunk& chunk, bool gradient) {
  std::vector<mx::Shape> shapes{{logits.shape(0)}};
  if (gradient) {
    shapes.push_back(logits.shape());
  }
  return host_op({logits, chunk.targets, chunk.weights}, shapes,
                 [](const std::vector<const mx::array*>& x, const std::vector<float*>& out) {
                   host::cross_entropy(x[0]->data<float>(), x[1]->data<std::int32_t>(), x[2]->data<float>(),
                                       out[0], out.size() > 1 ? out[1] : nullptr,
                                       static_cast<std::size_t>(x[0]->shape(0)),
                                       static_cast<std::size_t>(x[0]->shape(1)));
                 });
}

mx::array plain_chunk_loss(const mx::array& logits, const mx::array& log_sum, const Chunk& chunk) {
  const auto picked = mx::take_along_axis(logits, mx::expand_dims(chunk.targets, 1), 1);
  return mx::sum(mx::squeeze(log_sum - picked, 1) * chunk.weights);
}

mx::array chunk_value(const Chunk& chunk, const mx::array& head_EV) {
  const auto logits = chunk_logits(chunk, head_EV);
  if (use_host_kernels(chunk.hidden)) {
    return mx::sum(host_cross_entropy(logits, chunk, false)[0]);
  }
  return plain_chunk_loss(logits, mx::logsumexp(logits, -1, true), chunk);
}

// The gradient is weight * (softmax - one hot).
ChunkLoss chunk_loss(const Chunk& chunk, const mx::array& head_EV) {
  const auto logits = chunk_logits(chunk, head_EV);
  if (use_host_kernels(chunk.hidden)) {
    const auto out = host_cross_entropy(logits, chunk, true);
    return {mx::sum(out[0]), out[1]};
  }
  const auto log_sum = mx::logsumexp(logits, -1, true);
  const auto classes = mx::expand_dims(mx::arange(0, logits.shape(1), 1, mx::int32), 0);
  const auto one_hot = mx::astype(mx::equal(classes, mx::expand_dims(chunk.targets, 1)), mx::float32);
  const auto gradient = (mx::exp(logits - log_sum) - one_hot) * mx::expand_dims(chunk.weights, 1);
  return {plain_chunk_loss(logits, log_sum, chunk), mx::astype(gradient, chunk.hidden.dtype())};
}

// Puts the selected positions' gradients back among all N; padding repeats position 0 with gradient 0.
mx::array scatter_rows(const mx::array& like_NE, const mx::array& positions_S, const mx::array& gradient_SE) {
  const auto updates = mx::expand_dims(gradient_SE, 1);
  return mx::scatter_add(mx::zeros_like(like_NE), positions_S, updates, 0);
}

// {loss, d loss / d hidden [N, E], d loss / d head [V, E] if `head_trainable`}.
std::vector<mx::array> loss_and_gradient(const mx::array& hidden_NE, const mx::array& head_VE,
                                         const LossTargets& t, bool head_trainable, int chunk_rows) {
  const int count = t.targets_S.shape(0);
  const auto head_EV = mx::transpose(mx::astype(head_VE, hidden_NE.dtype()));
  auto loss = mx::array(0.0F);
  auto head_gradient = mx::zeros({}, mx::float32);
  std::vector<mx::array> hidden_gradients;
  for (int begin = 0; begin < count; begin += chunk_rows) {
    auto chunk = make_chunk(hidden_NE, t, begin, std::min(begin + chunk_rows, count));
    if (!hidden_gradients.empty()) {
      // Each chunk waits for the one before, so that only one chunk's logits are alive.
      chunk.hidden = mx::depends({chunk.hidden}, {hidden_gradients.back()})[0];
    }
    const auto partial = chunk_loss(chunk, head_EV);
    loss = loss + partial.loss;
    hidden_gradients.push_back(mx::matmul(partial.logit_gradient, mx::transpose(head_EV)));
    if (head_trainable) {
      head_gradient = head_gradient +
                      mx::astype(mx::matmul(mx::transpose(partial.logit_gradient), chunk.hidden), mx::float32);
    }
  }
  std::vector<mx::array> out{loss,
                             scatter_rows(hidden_NE, t.positions_S, mx::concatenate(hidden_gradients, 0))};
  if (head_trainable) {
    out.push_back(mx::astype(head_gradient, head_VE.dtype()));
  }
  return out;
}

int rows_a_chunk(const LossTargets& targets, int chunk) {
  return chunk > 0 ? chunk : std::max(1, targets.targets_S.shape(0));
}

} // namespace

mx::array chunked_cross_entropy(const mx::array& hidden_NE, const mx::array& head_VE,
                                const LossTargets& targets, bool head_trainable, int chunk) {
  const int chunk_rows = rows_a_chunk(targets, chunk);
  const auto forward = [head_trainable, chunk_rows](const std::vector<mx::array>& in) {
    return loss_and_gradient(in[0], in[1], {in[2], in[3], in[4]}, head_trainable, chunk_rows);
  };
  const auto backward = [head_trainable](const std::vector<mx::array>& in,
                                         const std::vector<mx::array>& cotangents,
                                         const std::vector<mx::array>& out) {
    const auto scaled = [&](const mx::array& gradient) {
      return gradient * mx::astype(cotangents[0], gradient.dtype());
    };
    return std::vector<mx::array>{scaled(out[1]), head_trainable ? scaled(out[2]) : mx::zeros_like(in[1]),
                                  mx::zeros_like(in[2]), mx::zeros_like(in[3]), mx::zeros_like(in[4])};
  };
  return mx::custom_vjp(
      forward, backward)({hidden_NE, head_VE, targets.positions_S, targets.targets_S, targets.weights_S})[0];
}

mx::array plain_cross_entropy(const mx::array& hidden_NE, const mx::array& head_VE,
                              const LossTargets& targets) {
  const auto selected = mx::take(hidden_NE, targets.positions_S, 0);
  const auto head_EV = mx::transpose(mx::astype(head_VE, hidden_NE.dtype()));
  const Chunk all{selected, targets.targets_S, targets.weights_S};
  const auto logits = chunk_logits(all, head_EV);
  return plain_chunk_loss(logits, mx::logsumexp(logits, -1, true), all);
}

mx::array cross_entropy_value(const mx::array& hidden_NE, const mx::array& head_VE, const LossTargets& targets,
                              int chunk) {
  const int count = targets.targets_S.shape(0);
  const int chunk_rows = rows_a_chunk(targets, chunk);
  const auto head_EV = mx::transpose(mx::astype(head_VE, hidden_NE.dtype()));
  auto loss = mx::array(0.0F);
  for (int begin = 0; begin < count; begin += chunk_rows) {
    auto part = make_chunk(hidden_NE, targets, begin, std::min(begin + chunk_rows, count));
    part.hidden = mx::depends({part.hidden}, {loss})[0];
    loss = loss + chunk_value(part, head_EV);
  }
  return loss;
}

} // namespace temper
