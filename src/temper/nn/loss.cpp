#include "temper/nn/loss.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "temper/nn/gpu_kernels.h"
#include "temper/nn/host_kernels.h"
#include "temper/nn/host_op.h"
#include "temper/nn/random.h"

namespace temper {
namespace {

// Rows [begin, end) of the selected positions.
struct Chunk {
  mx::array hidden;                // [C, E]
  std::optional<mx::array> update; // [C, R]: hidden A
  mx::array targets;               // [C]
  mx::array weights;               // [C]
};

mx::array rows(const mx::array& x, int begin, int end) {
  mx::Shape start(x.ndim(), 0);
  auto stop = x.shape();
  start[0] = begin;
  stop[0] = end;
  return mx::slice(x, start, stop);
}

Chunk make_chunk(const mx::array& hidden_NE, const std::optional<mx::array>& update_NR, const LossTargets& t,
                 int begin, int end) {
  const auto positions = rows(t.positions_S, begin, end);
  std::optional<mx::array> update;
  if (update_NR) {
    update = mx::take(*update_NR, positions, 0);
  }
  return {mx::take(hidden_NE, positions, 0), update, rows(t.targets_S, begin, end),
          rows(t.weights_S, begin, end)};
}

// The head's matrices in the hidden states' dtype, and what follows the product.
struct HeadParts {
  mx::array weight_EV;
  std::optional<mx::array> b_RV;
  std::optional<mx::array> magnitude_V;
  float logit_scale = 1.0F;
  float softcap = 0.0F;
};

std::optional<mx::array> cast(const std::optional<mx::array>& x, mx::Dtype dtype) {
  return x ? std::optional(mx::astype(*x, dtype)) : std::nullopt;
}

HeadParts make_parts(const Head& head, mx::Dtype dtype) {
  return {mx::transpose(mx::astype(head.weight_VE, dtype)), cast(head.lora_b_RV, dtype),
          cast(head.magnitude_V, mx::float32), head.logit_scale, head.softcap};
}

std::optional<mx::array> low_rank(const Head& head, const mx::array& hidden) {
  if (!head.lora_a_ER) {
    return std::nullopt;
  }
  const bool drops = head.dropout_key && head.dropout > 0;
  const auto x = drops ? dropout(hidden, head.dropout, *head.dropout_key) : hidden;
  return mx::matmul(x, mx::astype(*head.lora_a_ER, hidden.dtype()));
}

mx::array add_update(const HeadParts& head, const mx::array& y, const std::optional<mx::array>& update) {
  return update ? y + mx::matmul(*update, *head.b_RV) : y;
}

// h W^T + h A B, in the hidden states' dtype.
mx::array products(const HeadParts& head, const mx::array& hidden, const std::optional<mx::array>& update) {
  return add_update(head, mx::matmul(hidden, head.weight_EV), update);
}

// Logits from fp32 products.
mx::array finish_logits(const HeadParts& head, const mx::array& products) {
  auto logits = head.magnitude_V ? products * *head.magnitude_V : products;
  if (head.logit_scale != 1.0F) {
    logits = logits * head.logit_scale;
  }
  return head.softcap > 0.0F ? head.softcap * mx::tanh(logits / head.softcap) : logits;
}

mx::array chunk_products(const HeadParts& head, const Chunk& chunk) {
  return mx::astype(products(head, chunk.hidden, chunk.update), mx::float32);
}

// Whether the products are the logits, and the GPU's kernel reads them as they are.
bool use_gpu_kernel(const HeadParts& head, const mx::array& hidden) {
  return !head.magnitude_V && head.logit_scale == 1.0F && head.softcap == 0.0F &&
         gpu::serves(hidden, {head.weight_EV.shape(1)});
}

// {losses [C]} or, with `gradient`, {losses [C], logit gradients [C, V]} by the host kernel.
std::vector<mx::array> host_cross_entropy(const mx::array& logits, const Chunk& chunk, bool gradient) {
  std::vector<mx::Shape> shapes{{logits.shape(0)}};
  if (gradient) {
    shapes.push_back(logits.shape());
  }
  return host_op("cross_entropy", {logits, chunk.targets, chunk.weights}, shapes,
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

mx::array chunk_value(const HeadParts& head, const Chunk& chunk) {
  const auto logits = finish_logits(head, chunk_products(head, chunk));
  if (use_host_kernels(chunk.hidden)) {
    return mx::sum(host_cross_entropy(logits, chunk, false)[0]);
  }
  return plain_chunk_loss(logits, mx::logsumexp(logits, -1, true), chunk);
}

// A chunk's weighted loss, a scalar, and its gradients.
struct ChunkLoss {
  mx::array loss;
  mx::array product_gradient;                  // [C, V], in the hidden states' dtype
  std::optional<mx::array> magnitude_gradient; // [V]
};

// The gradient in the logits is weight * (softmax - one hot).
std::pair<mx::array, mx::array> loss_and_logit_gradient(const Chunk& chunk, const mx::array& logits) {
  if (use_host_kernels(chunk.hidden)) {
    const auto out = host_cross_entropy(logits, chunk, true);
    return {mx::sum(out[0]), out[1]};
  }
  const auto log_sum = mx::logsumexp(logits, -1, true);
  const auto classes = mx::expand_dims(mx::arange(0, logits.shape(1), 1, mx::int32), 0);
  const auto one_hot = mx::astype(mx::equal(classes, mx::expand_dims(chunk.targets, 1)), mx::float32);
  const auto gradient = (mx::exp(logits - log_sum) - one_hot) * mx::expand_dims(chunk.weights, 1);
  return {plain_chunk_loss(logits, log_sum, chunk), gradient};
}

ChunkLoss chunk_loss(const HeadParts& head, const Chunk& chunk) {
  if (use_gpu_kernel(head, chunk.hidden)) {
    const auto [losses, gradient] =
        gpu::cross_entropy(products(head, chunk.hidden, chunk.update), chunk.targets, chunk.weights);
    return {mx::sum(losses), gradient, std::nullopt};
  }
  const auto raw = chunk_products(head, chunk);
  const auto logits = finish_logits(head, raw);
  auto [loss, gradient] = loss_and_logit_gradient(chunk, logits);
  if (head.softcap > 0.0F) {
    gradient = gradient * (1.0F - mx::square(logits / head.softcap));
  }
  if (head.logit_scale != 1.0F) {
    gradient = gradient * head.logit_scale;
  }
  std::optional<mx::array> magnitude_gradient;
  if (head.magnitude_V) {
    magnitude_gradient = mx::sum(gradient * raw, 0);
    gradient = gradient * *head.magnitude_V;
  }
  return {loss, mx::astype(gradient, chunk.hidden.dtype()), magnitude_gradient};
}

// Puts the selected positions' gradients back among all N; padding repeats position 0 with gradient 0.
mx::array scatter_rows(const mx::array& like_NE, const mx::array& positions_S, const mx::array& gradient_SE) {
  const auto updates = mx::expand_dims(gradient_SE, 1);
  return mx::scatter_add(mx::zeros_like(like_NE), positions_S, updates, 0);
}

// The sums of all chunks' gradients.
struct HeadGradients {
  std::vector<mx::array> hidden; // a chunk's rows each
  std::vector<mx::array> update;
  mx::array weight_VE = mx::zeros({}, mx::float32);
  mx::array b_RV = mx::zeros({}, mx::float32);
  mx::array magnitude_V = mx::zeros({}, mx::float32);

  void add(const HeadParts& head, const Chunk& chunk, const ChunkLoss& part, bool head_trainable) {
    const auto& d = part.product_gradient;
    hidden.push_back(mx::matmul(d, mx::transpose(head.weight_EV)));
    if (head_trainable) {
      weight_VE = weight_VE + mx::astype(mx::matmul(mx::transpose(d), chunk.hidden), mx::float32);
    }
    if (chunk.update) {
      update.push_back(mx::matmul(d, mx::transpose(*head.b_RV)));
      b_RV = b_RV + mx::astype(mx::matmul(mx::transpose(*chunk.update), d), mx::float32);
    }
    if (part.magnitude_gradient) {
      magnitude_V = magnitude_V + *part.magnitude_gradient;
    }
  }
};

// hidden [N, E], targets' three, weight [V, E], then of the parts that exist: update [N, R], B [R, V],
// magnitude [V]. Which those are is `like`'s to say.
struct HeadInputs {
  Head head; // its arrays are those of the trace
  mx::array hidden_NE;
  LossTargets targets;
  std::optional<mx::array> update_NR;

  HeadInputs(const Head& like, const std::vector<mx::array>& in)
      : head(like), hidden_NE(in[0]), targets{in[1], in[2], in[3]} {
    head.weight_VE = in[4];
    std::size_t next = 5;
    if (like.lora_b_RV) {
      update_NR = in[next++];
      head.lora_b_RV = in[next++];
    }
    if (like.magnitude_V) {
      head.magnitude_V = in[next];
    }
  }
};

// The loss, then the gradients in HeadInputs' order but for the targets (a scalar 0 for an untrained weight).
std::vector<mx::array> loss_and_gradients(const HeadInputs& in, int chunk_rows) {
  const auto parts = make_parts(in.head, in.hidden_NE.dtype());
  const int count = in.targets.targets_S.shape(0);
  auto loss = mx::array(0.0F);
  HeadGradients sums;
  for (int begin = 0; begin < count; begin += chunk_rows) {
    auto chunk = make_chunk(in.hidden_NE, in.update_NR, in.targets, begin, std::min(begin + chunk_rows, count));
    if (!sums.hidden.empty()) {
      // Each chunk waits for the one before, so that only one chunk's logits are alive.
      chunk.hidden = mx::depends({chunk.hidden}, {sums.hidden.back()})[0];
    }
    const auto part = chunk_loss(parts, chunk);
    loss = loss + part.loss;
    sums.add(parts, chunk, part, in.head.trainable);
  }
  const auto& places = in.targets.positions_S;
  std::vector<mx::array> out{loss, scatter_rows(in.hidden_NE, places, mx::concatenate(sums.hidden, 0)),
                             mx::astype(sums.weight_VE, in.head.weight_VE.dtype())};
  if (in.update_NR) {
    out.push_back(scatter_rows(*in.update_NR, places, mx::concatenate(sums.update, 0)));
    out.push_back(mx::astype(sums.b_RV, in.head.lora_b_RV->dtype()));
  }
  if (in.head.magnitude_V) {
    out.push_back(mx::astype(sums.magnitude_V, in.head.magnitude_V->dtype()));
  }
  return out;
}

int rows_a_chunk(const LossTargets& targets, int chunk) {
  return chunk > 0 ? chunk : std::max(1, targets.targets_S.shape(0));
}

} // namespace

mx::array head_logits(const Head& head, const mx::array& hidden, const std::optional<mx::array>& product) {
  const auto parts = make_parts(head, hidden.dtype());
  const auto update = low_rank(head, hidden);
  auto y = product ? add_update(parts, *product, update) : products(parts, hidden, update);
  if (!parts.magnitude_V && parts.logit_scale == 1.0F && parts.softcap == 0.0F) {
    return y;
  }
  return mx::astype(finish_logits(parts, mx::astype(y, mx::float32)), hidden.dtype());
}

mx::array chunked_cross_entropy(const mx::array& hidden_NE, const Head& head, const LossTargets& targets,
                                int chunk) {
  const int chunk_rows = rows_a_chunk(targets, chunk);
  const auto forward = [head, chunk_rows](const std::vector<mx::array>& in) {
    return loss_and_gradients(HeadInputs(head, in), chunk_rows);
  };
  const auto backward = [trainable = head.trainable](const std::vector<mx::array>& in,
                                                     const std::vector<mx::array>& cotangents,
                                                     const std::vector<mx::array>& out) {
    const auto scaled = [&](const mx::array& gradient) {
      return gradient * mx::astype(cotangents[0], gradient.dtype());
    };
    std::vector<mx::array> gradients{scaled(out[1]), mx::zeros_like(in[1]), mx::zeros_like(in[2]),
                                     mx::zeros_like(in[3]), trainable ? scaled(out[2]) : mx::zeros_like(in[4])};
    for (std::size_t i = 3; i < out.size(); ++i) {
      gradients.push_back(scaled(out[i]));
    }
    return gradients;
  };
  std::vector<mx::array> inputs{hidden_NE, targets.positions_S, targets.targets_S, targets.weights_S,
                                head.weight_VE};
  if (head.lora_b_RV) {
    inputs.push_back(*low_rank(head, hidden_NE));
    inputs.push_back(*head.lora_b_RV);
  }
  if (head.magnitude_V) {
    inputs.push_back(*head.magnitude_V);
  }
  return mx::custom_vjp(forward, backward)(inputs)[0];
}

mx::array plain_cross_entropy(const mx::array& hidden_NE, const Head& head, const LossTargets& targets) {
  const auto parts = make_parts(head, hidden_NE.dtype());
  const auto all = make_chunk(hidden_NE, low_rank(head, hidden_NE), targets, 0, targets.targets_S.shape(0));
  const auto logits = finish_logits(parts, chunk_products(parts, all));
  return plain_chunk_loss(logits, mx::logsumexp(logits, -1, true), all);
}

mx::array cross_entropy_value(const mx::array& hidden_NE, const Head& head, const LossTargets& targets,
                              int chunk) {
  const auto parts = make_parts(head, hidden_NE.dtype());
  const auto update = low_rank(head, hidden_NE);
  const int count = targets.targets_S.shape(0);
  const int chunk_rows = rows_a_chunk(targets, chunk);
  auto loss = mx::array(0.0F);
  for (int begin = 0; begin < count; begin += chunk_rows) {
    auto part = make_chunk(hidden_NE, update, targets, begin, std::min(begin + chunk_rows, count));
    part.hidden = mx::depends({part.hidden}, {loss})[0];
    loss = loss + chunk_value(parts, part);
  }
  return loss;
}

} // namespace temper
