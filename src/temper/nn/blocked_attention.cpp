#include "temper/nn/blocked_attention.h"

#include <algorithm>
#include <cstdint>
#include <limits>

namespace temper {
namespace {

constexpr std::int64_t kMostScores = std::int64_t{1} << 25;
constexpr int kLeastQueries = 64;
constexpr int kMostQueries = 512;

// Queries [begin, end) and the keys [first, end) that any of them sees.
struct Block {
  int begin;
  int end;
  int first;
};

// What a block's products are of. Its heads are grouped by their keys: R query heads to each of G.
struct Problem {
  AttentionSettings settings; // without the sinks, which are an input
  int groups;
  int repeats;
  std::vector<Block> blocks;
};

std::vector<Block> split(int width, int window, int size) {
  std::vector<Block> blocks;
  for (int begin = 0; begin < width; begin += size) {
    blocks.push_back({begin, std::min(begin + size, width), window > 0 ? std::max(0, begin - window + 1) : 0});
  }
  return blocks;
}

int queries_at_a_time(const mx::array& q) {
  const auto scores_a_query = std::int64_t{q.shape(0)} * q.shape(1) * q.shape(2);
  const auto fitting = static_cast<int>(std::min<std::int64_t>(kMostScores / scores_a_query, kMostQueries));
  return std::max(kLeastQueries, fitting / kLeastQueries * kLeastQueries);
}

mx::array columns(const mx::array& x, int begin, int end) {
  return mx::slice(x, {0, 0, begin, 0}, {x.shape(0), x.shape(1), end, x.shape(3)});
}

// A block's rows of x [B, H, T, D] -> [B, G, R Tq, D].
mx::array block_rows(const Problem& p, const mx::array& x, const Block& block) {
  return mx::reshape(columns(x, block.begin, block.end),
                     {x.shape(0), p.groups, p.repeats * (block.end - block.begin), x.shape(3)});
}

mx::array heads_apart(const Problem& p, const mx::array& rows, const Block& block) {
  return mx::reshape(rows, {rows.shape(0), p.groups * p.repeats, block.end - block.begin, rows.shape(3)});
}

// bool, broadcast to [B, G, R, Tq, S]: what a block's queries see.
mx::array visible(const Problem& p, const std::optional<mx::array>& segments_BT, const Block& block) {
  const int num_queries = block.end - block.begin;
  const int num_keys = block.end - block.first;
  const auto query = mx::reshape(mx::arange(block.begin, block.end, 1, mx::int32), {num_queries, 1});
  const auto key = mx::reshape(mx::arange(block.first, block.end, 1, mx::int32), {1, num_keys});
  auto mask = mx::less_equal(key, query);
  if (p.settings.window > 0) {
    mask = mx::logical_and(mask, mx::greater(key, query - mx::array(p.settings.window)));
  }
  if (!segments_BT) {
    return mask;
  }
  const int rows = segments_BT->shape(0);
  const auto of = [&](int begin, int end, const mx::Shape& shape) {
    return mx::reshape(mx::slice(*segments_BT, {0, begin}, {rows, end}), shape);
  };
  return mx::logical_and(mask, mx::equal(of(block.begin, block.end, {rows, 1, 1, num_queries, 1}),
                                         of(block.first, block.end, {rows, 1, 1, 1, num_keys})));
}

// fp32 [B, G, R, Tq, S].
struct Scores {
  mx::array masked;                // -inf where nothing is seen
  std::optional<mx::array> squash; // the soft cap's derivative
};

Scores scores(const Problem& p, const mx::array& q_rows, const mx::array& k,
              const std::optional<mx::array>& segments_BT, const Block& block) {
  const auto scaled = q_rows * mx::array(p.settings.scale, q_rows.dtype());
  const auto product = mx::matmul(scaled, mx::swapaxes(columns(k, block.first, block.end), -1, -2));
  auto s = mx::astype(mx::unflatten(product, 2, {p.repeats, block.end - block.begin}), mx::float32);
  std::optional<mx::array> squash;
  if (p.settings.softcap > 0.0F) {
    const auto squashed = mx::tanh(s / p.settings.softcap);
    squash = 1.0F - mx::square(squashed);
    s = p.settings.softcap * squashed;
  }
  const auto unseen = mx::array(-std::numeric_limits<float>::infinity());
  return {mx::where(visible(p, segments_BT, block), s, unseen), squash};
}

// The softmax of a block's scores, and the sinks' share of each row: fp32 [B, G, R, Tq, S] and [B, G, R, Tq,
// 1].
struct Weights {
  mx::array of_keys;
  std::optional<mx::array> of_sink;
};

Weights weights(const Problem& p, const mx::array& masked, const std::optional<mx::array>& sinks_H) {
  if (!sinks_H) {
    return {mx::softmax(masked, -1), std::nullopt};
  }
  const auto sinks = mx::reshape(mx::astype(*sinks_H, mx::float32), {1, p.groups, p.repeats, 1, 1});
  const auto total = mx::logaddexp(mx::logsumexp(masked, -1, true), sinks);
  return {mx::exp(masked - total), mx::exp(sinks - total)};
}

// q, k, v[, segments][, sinks]
struct Inputs {
  mx::array q;
  mx::array k;
  mx::array v;
  std::optional<mx::array> segments_BT;
  std::optional<mx::array> sinks_H;
};

Inputs inputs_of(const std::vector<mx::array>& in, bool segments, bool sinks) {
  Inputs found{in[0], in[1], in[2], std::nullopt, std::nullopt};
  if (segments) {
    found.segments_BT = in[3];
  }
  if (sinks) {
    found.sinks_H = in.back();
  }
  return found;
}

mx::array forward(const Problem& p, const Inputs& in) {
  std::vector<mx::array> parts;
  for (const auto& block : p.blocks) {
    auto q_rows = block_rows(p, in.q, block);
    if (!parts.empty()) {
      q_rows = mx::depends({q_rows}, {parts.back()})[0]; // one block's scores at a time
    }
    const auto found = weights(p, scores(p, q_rows, in.k, in.segments_BT, block).masked, in.sinks_H).of_keys;
    const auto o_rows =
        mx::matmul(mx::flatten(mx::astype(found, in.v.dtype()), 2, 3), columns(in.v, block.first, block.end));
    parts.push_back(heads_apart(p, o_rows, block));
  }
  return mx::concatenate(parts, 2);
}

// x, with `part` added to its columns from `first` on.
mx::array add_columns(const mx::array& x, const mx::array& part, int first) {
  const int end = first + part.shape(2);
  const mx::Shape from{0, 0, first, 0};
  const mx::Shape to{x.shape(0), x.shape(1), end, x.shape(3)};
  return mx::slice_update(x, mx::slice(x, from, to) + mx::astype(part, x.dtype()), from, to);
}

struct Gradients {
  std::vector<mx::array> q_parts;
  mx::array k; // fp32
  mx::array v; // fp32
  std::optional<mx::array> sinks_GR;
};

void add_block(const Problem& p, const Inputs& in, const mx::array& o, const mx::array& do_, const Block& block,
               Gradients& all) {
  auto q_rows = block_rows(p, in.q, block);
  if (!all.q_parts.empty()) {
    q_rows = mx::depends({q_rows}, {all.q_parts.back(), all.k, all.v})[0];
  }
  const auto found = scores(p, q_rows, in.k, in.segments_BT, block);
  const auto shares = weights(p, found.masked, in.sinks_H);
  const auto do_rows = block_rows(p, do_, block);
  const auto mixed = mx::astype(do_rows, mx::float32) * mx::astype(block_rows(p, o, block), mx::float32);
  const auto d = mx::unflatten(mx::sum(mixed, -1, true), 2, {p.repeats, block.end - block.begin});
  const auto products = mx::matmul(do_rows, mx::swapaxes(columns(in.v, block.first, block.end), -1, -2));
  auto ds = shares.of_keys *
            (mx::astype(mx::unflatten(products, 2, {p.repeats, block.end - block.begin}), mx::float32) - d);
  if (found.squash) {
    ds = ds * *found.squash;
  }
  const auto ds_rows = mx::flatten(mx::astype(p.settings.scale * ds, in.q.dtype()), 2, 3);
  const auto shares_rows = mx::flatten(mx::astype(shares.of_keys, in.v.dtype()), 2, 3);
  const auto transposed = [](const mx::array& x) { return mx::swapaxes(x, -1, -2); };
  all.q_parts.push_back(heads_apart(p, mx::matmul(ds_rows, columns(in.k, block.first, block.end)), block));
  all.k = add_columns(all.k, mx::matmul(transposed(ds_rows), q_rows), block.first);
  all.v = add_columns(all.v, mx::matmul(transposed(shares_rows), do_rows), block.first);
  if (shares.of_sink) {
    const auto part = mx::sum(*shares.of_sink * d, std::vector<int>{0, 3, 4});
    all.sinks_GR = all.sinks_GR ? *all.sinks_GR - part : mx::negative(part);
  }
}

std::vector<mx::array> backward(const Problem& p, const Inputs& in, const mx::array& o, const mx::array& do_) {
  Gradients all{{}, mx::zeros(in.k.shape(), mx::float32), mx::zeros(in.v.shape(), mx::float32), std::nullopt};
  for (const auto& block : p.blocks) {
    add_block(p, in, o, do_, block, all);
  }
  std::vector<mx::array> gradients{mx::concatenate(all.q_parts, 2), mx::astype(all.k, in.k.dtype()),
                                   mx::astype(all.v, in.v.dtype())};
  if (in.segments_BT) {
    gradients.push_back(mx::zeros_like(*in.segments_BT));
  }
  if (in.sinks_H) {
    gradients.push_back(mx::astype(mx::flatten(*all.sinks_GR), in.sinks_H->dtype()));
  }
  return gradients;
}

} // namespace

mx::array blocked_attention(const AttentionSettings& settings, const mx::array& q, const mx::array& k,
                            const mx::array& v, const std::optional<mx::array>& segments_BT, int block) {
  const int size = block > 0 ? block : queries_at_a_time(q);
  Problem p{settings, k.shape(1), q.shape(1) / k.shape(1), split(q.shape(2), settings.window, size)};
  p.settings.sinks_H.reset();
  const bool segments = segments_BT.has_value();
  const bool sinks = settings.sinks_H.has_value();
  std::vector<mx::array> inputs{q, k, v};
  if (segments) {
    inputs.push_back(*segments_BT);
  }
  if (sinks) {
    inputs.push_back(*settings.sinks_H);
  }
  const auto run = [p, segments, sinks](const std::vector<mx::array>& in) {
    return std::vector<mx::array>{forward(p, inputs_of(in, segments, sinks))};
  };
  const auto turn_back = [p, segments, sinks](const std::vector<mx::array>& in,
                                              const std::vector<mx::array>& cotangents,
                                              const std::vector<mx::array>& out) {
    return backward(p, inputs_of(in, segments, sinks), out[0], cotangents[0]);
  };
  return mx::custom_vjp(run, turn_back)(inputs)[0];
}

} // namespace temper
