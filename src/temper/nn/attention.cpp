#include "temper/nn/attention.h"

#include <cmath>
#include <limits>

#include <mlx/backend/cuda/cuda.h>

#include "temper/base/error.h"
#include "temper/nn/blocked_attention.h"
#include "temper/nn/gpu_attention.h"

namespace temper {
namespace {

// rows of x [R, C] by `index`, zero where `valid` is false. `back` and `back_valid` are the inverse map, so
// that the gradient is a gather too: deterministic, and faster than a scatter-add.
mx::array permute_rows(const mx::array& x, const mx::array& index, const mx::array& valid,
                       const mx::array& back, const mx::array& back_valid) {
  const auto gather = [](const mx::array& rows, const mx::array& at, const mx::array& keep) {
    return mx::where(mx::expand_dims(keep, -1), mx::take(rows, at, 0), mx::zeros({}, rows.dtype()));
  };
  const auto forward = [gather](const std::vector<mx::array>& in) {
    return std::vector<mx::array>{gather(in[0], in[1], in[2])};
  };
  const auto backward = [gather](const std::vector<mx::array>& in, const std::vector<mx::array>& cotangents,
                                 const std::vector<mx::array>&) {
    std::vector<mx::array> gradients{gather(cotangents[0], in[3], in[4])};
    for (std::size_t i = 1; i < in.size(); ++i) {
      gradients.push_back(mx::zeros_like(in[i]));
    }
    return gradients;
  };
  return mx::custom_vjp(forward, backward)({x, index, valid, back, back_valid})[0];
}

// Where a pass's T queries and S keys stand: queries from column `offset`, keys from column `first`.
struct Span {
  int num_queries;
  int offset;
  int num_keys;
  int first;
};

Span whole(int width) {
  return {width, 0, width, 0};
}

// Columns, of a shape that has them all along one axis.
mx::array columns_from(int begin, int count, const mx::Shape& shape) {
  return mx::reshape(mx::arange(begin, begin + count, 1, mx::int32), shape);
}

// bool [1, 1, T, S]: the keys that each query may see.
mx::array causal_mask(const Span& span, int window) {
  const auto query = columns_from(span.offset, span.num_queries, {1, 1, span.num_queries, 1});
  const auto key = columns_from(span.first, span.num_keys, {1, 1, 1, span.num_keys});
  const auto mask = mx::less_equal(key, query);
  return window > 0 ? mx::logical_and(mask, mx::greater(key, query - mx::array(window))) : mask;
}

constexpr int kKeyMultiple = 64;

bool is_cut(int window, int num_keys) {
  return window > 0 && window < num_keys;
}

// The twin of MLX's fused attention, with a soft cap, which it has not. The heads of a group are rows of one
// product, so that their keys are read once. mask: bool, broadcast to [B, 1, T, S].
mx::array plain_attention(const AttentionSettings& settings, const mx::array& q, const mx::array& k,
                          const mx::array& v, const std::optional<mx::array>& mask) {
  const int groups = k.shape(1);
  const int repeats = q.shape(1) / groups;
  const int width = q.shape(2);
  const auto rows =
      mx::reshape(q * mx::array(settings.scale, q.dtype()), {q.shape(0), groups, repeats * width, q.shape(3)});
  auto scores = mx::unflatten(mx::matmul(rows, mx::swapaxes(k, -1, -2)), 2, {repeats, width});
  if (settings.softcap > 0.0F) {
    scores = settings.softcap * mx::tanh(mx::astype(scores, mx::float32) / settings.softcap);
  }
  if (mask) {
    scores = mx::where(mx::expand_dims(*mask, 2), scores, mx::array(-INFINITY, scores.dtype()));
  }
  const auto shape = scores.shape();
  if (settings.sinks_H) {
    auto column = shape;
    column.back() = 1;
    const auto sinks = mx::reshape(mx::astype(*settings.sinks_H, scores.dtype()), {1, groups, repeats, 1, 1});
    scores = mx::concatenate({scores, mx::broadcast_to(sinks, column)}, -1);
  }
  auto weights = mx::softmax(scores, -1, true);
  if (settings.sinks_H) {
    weights = mx::slice(weights, mx::Shape(5, 0), shape);
  }
  const auto o = mx::matmul(mx::flatten(mx::astype(weights, v.dtype()), 2, 3), v);
  return mx::reshape(o, {q.shape(0), q.shape(1), width, v.shape(3)});
}

// MLX's fused attention where it serves: it knows no soft cap, and CUDA's is built anew, in a good part of a
// second, for every number of keys: texts that grow would wait for it.
mx::array masked_attention(const AttentionSettings& settings, const mx::array& q, const mx::array& k,
                           const mx::array& v, const mx::array& mask, bool grows = false) {
  if (settings.softcap > 0.0F || (grows && mx::cu::is_available())) {
    return plain_attention(settings, q, k, v, mask);
  }
  return mx::fast::scaled_dot_product_attention(q, k, v, settings.scale, "array", mask, settings.sinks_H);
}

// MLX trains attention unfused on Metal and on a CPU; on CUDA where cuDNN's backward refuses.
bool fused_trains(const AttentionSettings& settings, mx::Dtype dtype, int width, int head_dim) {
  constexpr int kMostFeatures = 128;
  constexpr int kWidthMultiple = 128;
  return mx::cu::is_available() && mx::default_device() == mx::Device::gpu && dtype.size() == 2 &&
         head_dim % 8 == 0 && head_dim <= kMostFeatures && width % kWidthMultiple == 0 &&
         settings.softcap == 0.0F;
}

bool in_blocks(AttentionKernel kernel, const AttentionSettings& settings, const mx::array& q) {
  constexpr int kFewQueries = 512; // whose scores all fit, and need not be computed twice
  return kernel == AttentionKernel::blocked ||
         (kernel == AttentionKernel::automatic && q.shape(2) > kFewQueries &&
          !fused_trains(settings, q.dtype(), q.shape(2), q.shape(3)));
}

// Every query sees every key.
mx::array open_attention(const AttentionSettings& settings, const mx::array& q, const mx::array& k,
                         const mx::array& v) {
  if (settings.softcap > 0.0F) {
    return plain_attention(settings, q, k, v, std::nullopt);
  }
  return mx::fast::scaled_dot_product_attention(q, k, v, settings.scale, "", std::nullopt, settings.sinks_H);
}

// How many calls attention takes of these rows. cuDNN's backward asks for all memory there is from 2^28 query
// features on (65,536 tokens of 32 heads of 128), and twice as many ask CUDA for a memory set that it refuses.
int num_calls(const mx::array& q, const mx::array& k) {
  constexpr std::size_t kMostQueryFeatures = std::size_t{1} << 27; // seen to work
  if (!mx::cu::is_available() || q.size() <= kMostQueryFeatures) {
    return 1;
  }
  const int groups = k.shape(1);
  int calls = 1;
  while (calls < groups &&
         (groups % calls != 0 || q.size() / static_cast<std::size_t>(calls) > kMostQueryFeatures)) {
    ++calls;
  }
  return calls;
}

mx::array rows_attention(AttentionKernel kernel, const AttentionSettings& settings, const mx::array& q,
                         const mx::array& k, const mx::array& v) {
  const int width = q.shape(2);
  if (in_blocks(kernel, settings, q)) {
    return blocked_attention(settings, q, k, v);
  }
  if (is_cut(settings.window, width) || settings.softcap > 0.0F) {
    return masked_attention(settings, q, k, v, causal_mask(whole(width), settings.window));
  }
  return causal_attention(settings, q, k, v, num_calls(q, k));
}

mx::array segments_attention(const mx::array& segments_BT, const AttentionSettings& settings,
                             const mx::array& q, const mx::array& k, const mx::array& v) {
  const auto same = mx::equal(mx::expand_dims(segments_BT, 2), mx::expand_dims(segments_BT, 1));
  const auto mask = mx::logical_and(mx::expand_dims(same, 1), causal_mask(whole(q.shape(2)), settings.window));
  if (settings.softcap > 0.0F || !mx::cu::is_available()) {
    return masked_attention(settings, q, k, v, mask);
  }
  // MLX repeats a mask for every head. Compiled into one kernel with what makes it, the mask would be written
  // out that often, a layer's as large as all its scores: depends() keeps the two apart.
  const auto lowest = mx::array(std::numeric_limits<float>::lowest() / 2, q.dtype());
  const auto added = mx::where(mask, mx::array(0.0F, q.dtype()), lowest);
  return masked_attention(settings, q, k, v, mx::depends({added}, {segments_BT})[0]);
}

mx::array documents_attention(const DocumentLayout& layout, AttentionKernel kernel,
                              const AttentionSettings& settings, const mx::array& q, const mx::array& k,
                              const mx::array& v) {
  const int rows = q.shape(0);
  const int width = q.shape(2);
  const int num_documents = layout.gather_ML.shape(0);
  const int length = layout.gather_ML.shape(1);
  const auto places = mx::flatten(layout.gather_ML);
  const auto valid = mx::flatten(layout.valid_ML);

  const auto to_documents = [&](const mx::array& x_BHTD) {
    const int heads = x_BHTD.shape(1);
    const int features = x_BHTD.shape(3);
    const auto x_NC = mx::reshape(mx::transpose(x_BHTD, {0, 2, 1, 3}), {rows * width, heads * features});
    const auto x_MLC = permute_rows(x_NC, places, valid, layout.scatter_N, layout.real_N);
    return mx::transpose(mx::reshape(x_MLC, {num_documents, length, heads, features}), {0, 2, 1, 3});
  };
  const auto o = rows_attention(kernel, settings, to_documents(q), to_documents(k), to_documents(v));
  const int heads = o.shape(1);
  const int features = o.shape(3);
  const auto o_MLC = mx::reshape(mx::transpose(o, {0, 2, 1, 3}), {num_documents * length, heads * features});
  const auto o_NC = permute_rows(o_MLC, layout.scatter_N, layout.real_N, places, valid);
  return mx::transpose(mx::reshape(o_NC, {rows, width, heads, features}), {0, 2, 1, 3});
}

// causal_mask() without the columns before `starts_B`, bool [B, 1, T, S]. A padding query sees itself, since
// a softmax over nothing is NaN.
mx::array left_padded_mask(const mx::array& starts_B, const Span& span, int window) {
  const auto key = columns_from(span.first, span.num_keys, {1, 1, 1, span.num_keys});
  auto real = mx::greater_equal(key, mx::reshape(starts_B, {-1, 1, 1, 1}));
  if (span.num_queries == 1 && span.first + span.num_keys == span.offset + 1 &&
      !is_cut(window, span.num_keys)) {
    return real; // the one query is the last column, which is no padding
  }
  const auto query = columns_from(span.offset, span.num_queries, {1, 1, span.num_queries, 1});
  return mx::logical_and(causal_mask(span, window), mx::logical_or(real, mx::equal(key, query)));
}

// What the queries of this pass may see of a layer's keys.
mx::array cached_mask(const AttentionPlan& plan, const Span& span, int window) {
  const auto make = [&] {
    return plan.starts_B ? left_padded_mask(*plan.starts_B, span, window) : causal_mask(span, window);
  };
  if (!plan.masks) {
    return make();
  }
  const int cut = is_cut(window, span.offset + span.num_queries) ? window : 0;
  const std::array<int, 3> alike{cut, span.first, span.num_keys};
  const auto found = plan.masks->find(alike);
  return found != plan.masks->end() ? found->second : plan.masks->emplace(alike, make()).first->second;
}

mx::array cached_attention(const AttentionPlan& plan, const AttentionSettings& settings, const mx::array& q,
                           const mx::array& new_k, const mx::array& new_v, int layer) {
  const int offset = plan.cache->offset();
  const int num_queries = q.shape(2);
  const bool masked = num_queries > 1 || plan.starts_B;
  const bool on_cuda = mx::cu::is_available();
  // Products of few shapes: CUDA looks for the best way, and loads it, for each anew.
  auto [k, v, first] = plan.cache->update(layer, new_k, new_v, masked && on_cuda ? kKeyMultiple : 1);
  if (num_queries > 1 && offset == 0 && !plan.starts_B && !on_cuda) {
    return rows_attention(AttentionKernel::fused, settings, q, k, v);
  }
  if (masked) {
    const auto mask = cached_mask(plan, {num_queries, offset, k.shape(2), first}, settings.window);
    return masked_attention(settings, q, k, v, mask, true);
  }
  const int num_keys = k.shape(2);
  if (is_cut(settings.window, num_keys)) {
    const auto last = [&](const mx::array& x) {
      return mx::slice(x, {0, 0, num_keys - settings.window, 0},
                       {x.shape(0), x.shape(1), num_keys, x.shape(3)});
    };
    k = last(k);
    v = last(v);
  }
  return open_attention(settings, q, k, v);
}

// A number a token that is its document's alone.
std::optional<mx::array> segments_of(const AttentionPlan& plan, const mx::array& q) {
  if (!plan.spans_2N) {
    return plan.segments_BT;
  }
  const int rows = q.shape(0);
  const int width = q.shape(2);
  return mx::reshape(mx::slice(*plan.spans_2N, {0, 0}, {1, rows * width}), {rows, width});
}

} // namespace

mx::array causal_attention(const AttentionSettings& settings, const mx::array& q, const mx::array& k,
                           const mx::array& v, int num_calls) {
  const auto attend = [&](const mx::array& queries, const mx::array& keys, const mx::array& values,
                          const std::optional<mx::array>& sinks) {
    return mx::fast::scaled_dot_product_attention(queries, keys, values, settings.scale, "causal", std::nullopt,
                                                  sinks);
  };
  if (num_calls == 1) {
    return attend(q, k, v, settings.sinks_H);
  }
  const auto qs = mx::split(q, num_calls, 1);
  const auto ks = mx::split(k, num_calls, 1);
  const auto vs = mx::split(v, num_calls, 1);
  const auto sinks = settings.sinks_H ? mx::split(*settings.sinks_H, num_calls) : std::vector<mx::array>{};
  std::vector<mx::array> parts;
  parts.reserve(qs.size());
  for (std::size_t i = 0; i < qs.size(); ++i) {
    parts.push_back(attend(qs[i], ks[i], vs[i], sinks.empty() ? std::nullopt : std::optional(sinks[i])));
  }
  return mx::concatenate(parts, 1);
}

mx::array attention(const AttentionPlan& plan, const AttentionSettings& settings, const mx::array& q,
                    const mx::array& k, const mx::array& v, int layer) {
  if (plan.cache != nullptr) {
    return cached_attention(plan, settings, q, k, v, layer);
  }
  if (plan.documents) {
    return documents_attention(*plan.documents, plan.kernel, settings, q, k, v);
  }
  if (const auto segments_BT = segments_of(plan, q)) {
    return in_blocks(plan.kernel, settings, q) ? blocked_attention(settings, q, k, v, segments_BT)
                                               : segments_attention(*segments_BT, settings, q, k, v);
  }
  return rows_attention(plan.kernel, settings, q, k, v);
}

bool attends_in_place(const AttentionPlan& plan, const AttentionSettings& settings, const mx::array& q_BTC,
                      int num_heads) {
  const int width = q_BTC.shape(1);
  const int head_dim = q_BTC.shape(2) / num_heads;
  if (plan.kernel == AttentionKernel::blocked || plan.cache != nullptr || plan.segments_BT || plan.documents ||
      settings.sinks_H || !gpu::attention_serves(q_BTC.dtype(), head_dim)) {
    return false;
  }
  constexpr int kNarrowHead = 64; // up to which our kernels are the faster ones
  return plan.spans_2N || head_dim <= kNarrowHead || is_cut(settings.window, width) ||
         !fused_trains(settings, q_BTC.dtype(), width, head_dim);
}

mx::array attention_in_place(const AttentionPlan& plan, const AttentionSettings& settings, int num_heads,
                             int num_kv_heads, const mx::array& q, const mx::array& k, const mx::array& v) {
  const int window = plan.spans_2N || is_cut(settings.window, q.shape(1)) ? settings.window : 0;
  return gpu::attention({num_heads, num_kv_heads, settings.scale, window, settings.softcap}, q, k, v,
                        plan.spans_2N);
}

AttentionKernel attention_kernel_named(const std::string& name) {
  static const std::map<std::string, AttentionKernel> kKernels{{"fused", AttentionKernel::fused},
                                                               {"auto", AttentionKernel::automatic},
                                                               {"blocked", AttentionKernel::blocked}};
  const auto found = kKernels.find(name);
  if (found == kKernels.end()) {
    throw ConfigError("attention must be one of auto, fused, blocked, got '" + name + "'");
  }
  return found->second;
}

} // namespace temper
