#include "temper/nn/attention.h"

#include <cmath>

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

// bool [1, 1, T, S] of the keys, columns `first` to `offset` + T, that query t, standing at `offset` + t, may
// see.
mx::array causal_mask(int num_queries, int offset, int window, int first = 0) {
  const int end = offset + num_queries;
  const auto query = mx::expand_dims(mx::arange(offset, end, 1, mx::int32), 1);
  const auto key = mx::expand_dims(mx::arange(first, end, 1, mx::int32), 0);
  auto mask = mx::less_equal(key, query);
  if (window > 0) {
    mask = mx::logical_and(mask, mx::greater(key, query - mx::array(window)));
  }
  return mx::reshape(mask, {1, 1, num_queries, end - first});
}

bool is_cut(int window, int num_keys) {
  return window > 0 && window < num_keys;
}

// The twin of MLX's fused attention, with a soft cap; it has none. mask: bool, broadcast to [B, 1, T, S].
mx::array capped_attention(const AttentionSettings& settings, const mx::array& q, const mx::array& k,
                           const mx::array& v, const std::optional<mx::array>& mask) {
  const int groups = k.shape(1);
  const int repeats = q.shape(1) / groups;
  const auto q_BGRTD = mx::unflatten(q, 1, {groups, repeats});
  const auto k_BG1DS = mx::expand_dims(mx::swapaxes(k, -1, -2), 2);
  auto scores = mx::astype(mx::matmul(q_BGRTD * mx::array(settings.scale, q.dtype()), k_BG1DS), mx::float32);
  scores = settings.softcap * mx::tanh(scores / settings.softcap);
  if (mask) {
    scores = mx::where(mx::expand_dims(*mask, 2), scores, mx::array(-INFINITY));
  }
  auto weights = mx::array(0.0F);
  if (settings.sinks_H) {
    auto sinks = mx::reshape(mx::astype(*settings.sinks_H, mx::float32), {1, groups, repeats, 1, 1});
    auto shape = scores.shape();
    shape.back() = 1;
    const auto all = mx::softmax(mx::concatenate({scores, mx::broadcast_to(sinks, shape)}, -1), -1);
    weights = mx::slice(all, mx::Shape(5, 0), scores.shape());
  } else {
    weights = mx::softmax(scores, -1);
  }
  const auto o = mx::matmul(mx::astype(weights, v.dtype()), mx::expand_dims(v, 2));
  return mx::flatten(o, 1, 2);
}

mx::array masked_attention(const AttentionSettings& settings, const mx::array& q, const mx::array& k,
                           const mx::array& v, const mx::array& mask) {
  if (settings.softcap > 0.0F) {
    return capped_attention(settings, q, k, v, mask);
  }
  return mx::fast::scaled_dot_product_attention(q, k, v, settings.scale, "array", mask, settings.sinks_H);
}

// Every query sees every key.
mx::array open_attention(const AttentionSettings& settings, const mx::array& q, const mx::array& k,
                         const mx::array& v) {
  if (settings.softcap > 0.0F) {
    return capped_attention(settings, q, k, v, std::nullopt);
  }
  return mx::fast::scaled_dot_product_attention(q, k, v, settings.scale, "", std::nullopt, settings.sinks_H);
}

mx::array rows_attention(const AttentionSettings& settings, const mx::array& q, const mx::array& k,
                         const mx::array& v) {
  const int width = q.shape(2);
  if (is_cut(settings.window, width) || settings.softcap > 0.0F) {
    return masked_attention(settings, q, k, v, causal_mask(width, 0, settings.window));
  }
  return mx::fast::scaled_dot_product_attention(q, k, v, settings.scale, "causal", std::nullopt,
                                                settings.sinks_H);
}

mx::array segments_attention(const mx::array& segments_BT, const AttentionSettings& settings,
                             const mx::array& q, const mx::array& k, const mx::array& v) {
  const auto same = mx::equal(mx::expand_dims(segments_BT, 2), mx::expand_dims(segments_BT, 1));
  const auto mask = mx::logical_and(mx::expand_dims(same, 1), causal_mask(q.shape(2), 0, settings.window));
  return masked_attention(settings, q, k, v, mask);
}

mx::array documents_attention(const DocumentLayout& layout, const AttentionSettings& settings,
                              const mx::array& q, const mx::array& k, const mx::array& v) {
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
  const auto o = rows_attention(settings, to_documents(q), to_documents(k), to_documents(v));
  const int heads = o.shape(1);
  const int features = o.shape(3);
  const auto o_MLC = mx::reshape(mx::transpose(o, {0, 2, 1, 3}), {num_documents * length, heads * features});
  const auto o_NC = permute_rows(o_MLC, layout.scatter_N, layout.real_N, places, valid);
  return mx::transpose(mx::reshape(o_NC, {rows, width, heads, features}), {0, 2, 1, 3});
}

// causal_mask() without the columns before `starts_B`, bool [B, 1, T, S]. A padding query sees itself, since
// a softmax over nothing is NaN.
mx::array left_padded_mask(const mx::array& starts_B, int num_queries, int offset, int window, int first) {
  const auto column = [](int begin, int end, const mx::Shape& shape) {
    return mx::reshape(mx::arange(begin, end, 1, mx::int32), shape);
  };
  const int end = offset + num_queries;
  const auto query = column(offset, end, {1, 1, num_queries, 1});
  const auto key = column(first, end, {1, 1, 1, end - first});
  const auto real = mx::greater_equal(key, mx::reshape(starts_B, {-1, 1, 1, 1}));
  return mx::logical_and(causal_mask(num_queries, offset, window, first),
                         mx::logical_or(real, mx::equal(key, query)));
}

// What the queries of this pass may see of the keys from column `first` on.
mx::array cached_mask(const AttentionPlan& plan, int num_queries, int window, int first) {
  const int offset = plan.cache->offset();
  const auto make = [&] {
    return plan.starts_B ? left_padded_mask(*plan.starts_B, num_queries, offset, window, first)
                         : causal_mask(num_queries, offset, window, first);
  };
  if (!plan.masks) {
    return make();
  }
  const int cut = is_cut(window, offset + num_queries) ? window : 0;
  const auto found = plan.masks->find({cut, first});
  return found != plan.masks->end() ? found->second
                                    : plan.masks->emplace(std::pair(cut, first), make()).first->second;
}

mx::array cached_attention(const AttentionPlan& plan, const AttentionSettings& settings, const mx::array& q,
                           const mx::array& new_k, const mx::array& new_v, int layer) {
  const int offset = plan.cache->offset();
  const int num_queries = q.shape(2);
  auto [k, v, first] = plan.cache->update(layer, new_k, new_v);
  if (plan.starts_B) {
    return masked_attention(settings, q, k, v, cached_mask(plan, num_queries, settings.window, first));
  }
  if (num_queries > 1) {
    return offset == 0
               ? rows_attention(settings, q, k, v)
               : masked_attention(settings, q, k, v, cached_mask(plan, num_queries, settings.window, first));
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

} // namespace

mx::array attention(const AttentionPlan& plan, const AttentionSettings& settings, const mx::array& q,
                    const mx::array& k, const mx::array& v, int layer) {
  if (plan.cache != nullptr) {
    return cached_attention(plan, settings, q, k, v, layer);
  }
  if (plan.documents) {
    return documents_attention(*plan.documents, settings, q, k, v);
  }
  if (plan.segments_BT) {
    return segments_attention(*plan.segments_BT, settings, q, k, v);
  }
  return rows_attention(settings, q, k, v);
}

} // namespace temper
