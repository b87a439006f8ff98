#include "temper/nn/attention.h"

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

// bool [1, 1, T, S] of the keys that query t, standing at `offset` + t, may see.
mx::array causal_mask(int num_queries, int offset, int window) {
  const auto query = mx::expand_dims(mx::arange(offset, offset + num_queries, 1, mx::int32), 1);
  const auto key = mx::expand_dims(mx::arange(0, offset + num_queries, 1, mx::int32), 0);
  auto mask = mx::less_equal(key, query);
  if (window > 0) {
    mask = mx::logical_and(mask, mx::greater(key, query - mx::array(window)));
  }
  return mx::reshape(mask, {1, 1, num_queries, offset + num_queries});
}

bool is_cut(int window, int num_keys) {
  return window > 0 && window < num_keys;
}

mx::array rows_attention(const mx::array& q, const mx::array& k, const mx::array& v, float scale, int window) {
  const int width = q.shape(2);
  if (is_cut(window, width)) {
    return mx::fast::scaled_dot_product_attention(q, k, v, scale, "array", causal_mask(width, 0, window));
  }
  return mx::fast::scaled_dot_product_attention(q, k, v, scale, "causal");
}

mx::array segments_attention(const mx::array& segments_BT, const mx::array& q, const mx::array& k,
                             const mx::array& v, float scale, int window) {
  const auto same = mx::equal(mx::expand_dims(segments_BT, 2), mx::expand_dims(segments_BT, 1));
  const auto mask = mx::logical_and(mx::expand_dims(same, 1), causal_mask(q.shape(2), 0, window));
  return mx::fast::scaled_dot_product_attention(q, k, v, scale, "array", mask);
}

mx::array documents_attention(const DocumentLayout& layout, const mx::array& q, const mx::array& k,
                              const mx::array& v, float scale, int window) {
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
  const auto o = rows_attention(to_documents(q), to_documents(k), to_documents(v), scale, window);
  const int heads = o.shape(1);
  const int features = o.shape(3);
  const auto o_MLC = mx::reshape(mx::transpose(o, {0, 2, 1, 3}), {num_documents * length, heads * features});
  const auto o_NC = permute_rows(o_MLC, layout.scatter_N, layout.real_N, places, valid);
  return mx::transpose(mx::reshape(o_NC, {rows, width, heads, features}), {0, 2, 1, 3});
}

// causal_mask() without the columns before `starts_B`, bool [B, 1, T, S]. A padding query sees itself, since
// a softmax over nothing is NaN.
mx::array left_padded_mask(const mx::array& starts_B, int num_queries, int offset, int window) {
  const auto column = [](int begin, int end, const mx::Shape& shape) {
    return mx::reshape(mx::arange(begin, end, 1, mx::int32), shape);
  };
  const int num_keys = offset + num_queries;
  const auto query = column(offset, num_keys, {1, 1, num_queries, 1});
  const auto key = column(0, num_keys, {1, 1, 1, num_keys});
  const auto real = mx::greater_equal(key, mx::reshape(starts_B, {-1, 1, 1, 1}));
  return mx::logical_and(causal_mask(num_queries, offset, window), mx::logical_or(real, mx::equal(key, query)));
}

mx::array cached_attention(const AttentionPlan& plan, const mx::array& q, const mx::array& new_k,
                           const mx::array& new_v, float scale, int window, int layer) {
  const int offset = plan.cache->offset();
  const int num_queries = q.shape(2);
  auto [k, v] = plan.cache->update(layer, new_k, new_v);
  const int num_keys = k.shape(2);
  if (plan.starts_B) {
    const auto mask = left_padded_mask(*plan.starts_B, num_queries, offset, window);
    return mx::fast::scaled_dot_product_attention(q, k, v, scale, "array", mask);
  }
  if (num_queries > 1) {
    return offset == 0 ? rows_attention(q, k, v, scale, window)
                       : mx::fast::scaled_dot_product_attention(q, k, v, scale, "array",
                                                                causal_mask(num_queries, offset, window));
  }
  if (is_cut(window, num_keys)) {
    const auto last = [&](const mx::array& x) {
      return mx::slice(x, {0, 0, num_keys - window, 0}, {x.shape(0), x.shape(1), num_keys, x.shape(3)});
    };
    k = last(k);
    v = last(v);
  }
  return mx::fast::scaled_dot_product_attention(q, k, v, scale);
}

} // namespace

mx::array attention(const AttentionPlan& plan, const mx::array& q, const mx::array& k, const mx::array& v,
                    float scale, int window, int layer) {
  if (plan.cache != nullptr) {
    return cached_attention(plan, q, k, v, scale, window, layer);
  }
  if (plan.documents) {
    return documents_attention(*plan.documents, q, k, v, scale, window);
  }
  if (plan.segments_BT) {
    return segments_attention(*plan.segments_BT, q, k, v, scale, window);
  }
  return rows_attention(q, k, v, scale, window);
}

} // namespace temper
