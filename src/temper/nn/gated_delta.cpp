// Per chunk of L tokens, for j <= i within one document:
//   decay_ij = exp(g_{j+1} + ... + g_i),  N_ij = beta_i (k_i . k_j) decay_ij for j < i,  X = (I + N)^-1,
//   U = X (beta V),  W = X (beta into K)  (into_i: decay from the chunk's start, 0 for later documents),
//   S' = (carry I - K_end^T W) S + K_end^T U  (K_end: k_j decayed to the chunk's last token),
//   out = (into Q) S + (Q K^T . decay) (U - W S).
// Dims beside the header's: C chunks, L tokens a chunk, r = H / G value heads a key head; arrays of the chunked
// form are [C, B, G, r, L, ...], r = 1 for what a key head shares.
#include "temper/nn/gated_delta.h"

#include <cmath>
#include <limits>

#include "temper/base/error.h"
#include "temper/nn/fused.h"
#include "temper/nn/recompute.h"

namespace temper {
namespace {

using Arrays = std::vector<mx::array>;

constexpr int kMaxChunk = 64;
constexpr float kNormEps = 1e-6F; // as the families' reference kernels have it

struct Sizes {
  int rows, tokens, key_heads, value_heads, key_features, value_features, chunk, chunks;
  int repeats() const {
    return value_heads / key_heads;
  }
};

Sizes sizes_of(const mx::array& q, const mx::array& v) {
  Sizes s{q.shape(0), q.shape(1), q.shape(2), v.shape(2), q.shape(3), v.shape(3), 2, 1};
  while (s.chunk < kMaxChunk && s.chunk < s.tokens) {
    s.chunk *= 2;
  }
  s.chunks = (s.tokens + s.chunk - 1) / s.chunk;
  return s;
}

void check_positions(const std::optional<mx::array>& positions, int rows, int tokens) {
  if (positions && positions->shape() != mx::Shape{rows, tokens} &&
      positions->shape() != mx::Shape{1, tokens}) {
    throw ModelError("gated delta rule: positions should have shape " + shape_text({rows, tokens}) + ", not " +
                     shape_text(positions->shape()));
  }
}

void check_shapes(const GatedDeltaInput& in) {
  const auto& q = in.q_BTGD.shape();
  const auto& v = in.v_BTHV.shape();
  const bool four = q.size() == 4 && v.size() == 4;
  const mx::Shape gates = four ? mx::Shape{q[0], q[1], v[2]} : mx::Shape{};
  if (!four || in.k_BTGD.shape() != q || v[0] != q[0] || v[1] != q[1] || v[2] % q[2] != 0 ||
      in.g_BTH.shape() != gates || in.beta_BTH.shape() != gates) {
    throw ModelError("gated delta rule: q " + shape_text(q) + ", k " + shape_text(in.k_BTGD.shape()) + ", v " +
                     shape_text(v) + ", g " + shape_text(in.g_BTH.shape()) + " and beta " +
                     shape_text(in.beta_BTH.shape()) + " do not fit each other");
  }
  const mx::Shape state{q[0], v[2], q[3], v[3]};
  if (in.state_BHDV && in.state_BHDV->shape() != state) {
    throw ModelError("gated delta rule: the state should have shape " + shape_text(state) + ", not " +
                     shape_text(in.state_BHDV->shape()));
  }
  check_positions(in.positions_BT, q[0], q[1]);
}

mx::array start_state(const GatedDeltaInput& in) {
  if (in.state_BHDV) {
    return mx::astype(*in.state_BHDV, mx::float32);
  }
  const auto s = sizes_of(in.q_BTGD, in.v_BTHV);
  return mx::zeros({s.rows, s.value_heads, s.key_features, s.value_features}, mx::float32);
}

// x / sqrt(sum(x^2) + eps) over the last axis, in fp32.
mx::array l2_norm(const mx::array& x) {
  const auto features = static_cast<float>(x.shape(-1));
  return mx::fast::rms_norm(mx::astype(x, mx::float32), std::nullopt, kNormEps / features) /
         std::sqrt(features);
}

mx::array query(const mx::array& q) {
  return l2_norm(q) / std::sqrt(static_cast<float>(q.shape(-1)));
}

mx::array transposed(const mx::array& x) {
  return mx::swapaxes(x, -1, -2);
}

// (I + N)^-1 for strictly lower triangular N [..., n, n], n a power of 2, by halves: exact up to rounding,
// where powers of N would cancel.
mx::array lower_inverse(const mx::array& N) {
  const int n = N.shape(-1);
  if (n == 2) {
    return mx::eye(2) - N;
  }
  const int half = n / 2;
  const auto quarter = [&](int row, int column) {
    auto start = mx::Shape(N.ndim(), 0);
    auto stop = N.shape();
    start[N.ndim() - 2] = row * half;
    start[N.ndim() - 1] = column * half;
    stop[N.ndim() - 2] = (row + 1) * half;
    stop[N.ndim() - 1] = (column + 1) * half;
    return mx::slice(N, start, stop);
  };
  const auto diagonal = lower_inverse(mx::stack({quarter(0, 0), quarter(1, 1)}));
  const auto top = mx::take(diagonal, 0, 0);
  const auto bottom = mx::take(diagonal, 1, 0);
  const auto corner = mx::negative(mx::matmul(mx::matmul(bottom, quarter(1, 0)), top));
  return mx::concatenate(
      {mx::concatenate({top, mx::zeros_like(top)}, -1), mx::concatenate({corner, bottom}, -1)}, -2);
}

// The same with its gradient, -X^T dX X^T, so that none of the halves wait for the backward pass.
mx::array unit_lower_inverse(const mx::array& N) {
  const auto forward = [](const Arrays& in) { return Arrays{lower_inverse(in[0])}; };
  const auto backward = [](const Arrays&, const Arrays& cotangents, const Arrays& out) {
    const auto X_T = transposed(out[0]);
    return Arrays{mx::tril(mx::negative(mx::matmul(mx::matmul(X_T, cotangents[0]), X_T)), -1)};
  };
  return mx::custom_vjp(forward, backward)({N})[0];
}

// The states before each chunk, and the last: S_{c+1} = P_c S_c + R_c, for P [C, n, D, D], R [C, n, D, V].
// One product a chunk, in the backward pass too.
Arrays scan_states(const mx::array& P, const mx::array& R, const mx::array& first) {
  const auto forward = [](const Arrays& in) {
    std::vector<mx::array> states{in[2]};
    for (int c = 0; c < in[0].shape(0); ++c) {
      states.push_back(mx::addmm(mx::take(in[1], c, 0), mx::take(in[0], c, 0), states.back()));
    }
    const auto last = states.back();
    states.pop_back();
    return Arrays{mx::stack(states), last};
  };
  const auto backward = [](const Arrays& in, const Arrays& cotangents, const Arrays& out) {
    const auto chunks = static_cast<std::size_t>(in[0].shape(0));
    std::vector<mx::array> after(chunks, cotangents[1]); // of the state that leaves each chunk
    auto running = cotangents[1];
    for (std::size_t c = chunks; c-- > 0;) {
      after[c] = running;
      const int at = static_cast<int>(c);
      running = mx::addmm(mx::take(cotangents[0], at, 0), transposed(mx::take(in[0], at, 0)), running);
    }
    const auto d_R = mx::stack(after);
    return Arrays{mx::matmul(d_R, transposed(out[0])), d_R, running};
  };
  return mx::custom_vjp(forward, backward)({P, R, first});
}

// x [B, T, h, F] -> [C, B, G, h / G, L, F] in fp32, padded with zeros.
mx::array to_chunks(const mx::array& x, const Sizes& s) {
  const auto padded =
      mx::pad(mx::astype(x, mx::float32), {{0, 0}, {0, s.chunks * s.chunk - s.tokens}, {0, 0}, {0, 0}});
  const auto split =
      mx::reshape(padded, {s.rows, s.chunks, s.chunk, s.key_heads, x.shape(2) / s.key_heads, x.shape(3)});
  return mx::transpose(split, {1, 0, 3, 4, 2, 5});
}

mx::array from_chunks(const mx::array& x, const Sizes& s) {
  const auto split = mx::transpose(x, {1, 0, 4, 2, 3, 5}); // [B, C, L, G, r, V]
  const auto whole = mx::reshape(split, {s.rows, s.chunks * s.chunk, s.value_heads, s.value_features});
  return mx::slice(whole, {0, 0, 0, 0}, {s.rows, s.tokens, s.value_heads, s.value_features});
}

// Which tokens share a document. Booleans, broadcast over heads.
struct Masks {
  mx::array pairs;                     // [C, B, 1, 1, L, L]: j <= i, both within one document
  std::optional<mx::array> from_start; // [C, B, 1, 1, L, 1]: the document began before the chunk
};

Masks document_masks(const std::optional<mx::array>& positions, const Sizes& s) {
  const auto token = mx::arange(0, s.chunk, 1, mx::int32);
  const auto causal = mx::greater_equal(mx::expand_dims(token, 1), mx::expand_dims(token, 0));
  if (!positions) {
    return {causal, std::nullopt};
  }
  // Where each token's document starts, counted from its chunk's first token; padding belongs to the last's.
  const auto starts_BT = mx::arange(0, s.tokens, 1, mx::int32) - mx::astype(*positions, mx::int32);
  const auto padded = mx::pad(starts_BT, {{0, 0}, {0, s.chunks * s.chunk - s.tokens}}, mx::array(0), "edge");
  const auto chunk_start = mx::arange(0, s.chunks * s.chunk, s.chunk, mx::int32);
  const auto starts = mx::reshape(padded, {positions->shape(0), s.chunks, s.chunk}) -
                      mx::reshape(chunk_start, {1, s.chunks, 1});
  const auto starts_CBL = mx::expand_dims(mx::transpose(starts, {1, 0, 2}), {2, 3, 5});
  return {mx::logical_and(causal, mx::less_equal(starts_CBL, token)), mx::less(starts_CBL, mx::array(0))};
}

// The last row of the next to last axis, kept as an axis of 1.
mx::array last_row(const mx::array& x) {
  auto start = mx::Shape(x.ndim(), 0);
  start[x.ndim() - 2] = x.shape(-2) - 1;
  return mx::slice(x, start, x.shape());
}

// g_{j+1} + ... + g_i at [i, j] for g [..., L, 1], 0 for j >= i. Summed for each j: differences of one running
// sum would lose the small decays that follow a large one.
mx::array pair_sums(const mx::array& g) {
  const auto token = mx::arange(0, g.shape(-2), 1, mx::int32);
  const auto later_ji = mx::greater(mx::expand_dims(token, 0), mx::expand_dims(token, 1));
  return transposed(mx::cumsum(mx::where(later_ji, transposed(g), mx::array(0.0F)), -1));
}

// in: q, k, v, g, beta, state -> out [B, T, H, V] in fp32, state.
Arrays chunked(const Arrays& in, const std::optional<mx::array>& positions) {
  const auto s = sizes_of(in[0], in[2]);
  const auto masks = document_masks(positions, s);
  const auto Q = to_chunks(query(in[0]), s);
  const auto K = to_chunks(l2_norm(in[1]), s);
  const auto V = to_chunks(in[2], s);
  const auto g = to_chunks(mx::expand_dims(in[3], 3), s);
  const auto beta = to_chunks(mx::expand_dims(in[4], 3), s);

  const auto never = mx::array(-std::numeric_limits<float>::infinity());
  const auto decay = mx::exp(mx::where(masks.pairs, pair_sums(g), never));
  const auto sums = mx::cumsum(g, -2);
  const auto into = mx::exp(masks.from_start ? mx::where(*masks.from_start, sums, never) : sums);
  const auto X = unit_lower_inverse(mx::tril(mx::matmul(K, transposed(K)) * decay * beta, -1));
  const auto U = mx::matmul(X, beta * V);
  const auto W = mx::matmul(X, beta * into * K);

  const auto ends = transposed(K) * last_row(decay); // K_end^T
  const auto P = last_row(into) * mx::eye(s.key_features) - mx::matmul(ends, W);
  const auto R = mx::matmul(ends, U);
  const auto heads = [&](const mx::array& x) { return mx::flatten(x, 1, 3); };
  const auto first = mx::flatten(in[5], 0, 1);
  const auto states = scan_states(heads(P), heads(R), first);
  const auto S = mx::unflatten(states[0], 1, {s.rows, s.key_heads, s.repeats()});

  const auto within = mx::matmul(mx::matmul(Q, transposed(K)) * decay, U - mx::matmul(W, S));
  const auto out = mx::matmul(Q * into, S) + within;
  return {from_chunks(out, s), mx::unflatten(states[1], 0, {s.rows, s.value_heads})};
}

// One token: x_t [B, H, F] of each, gates [B, H], `keep` [B, 1, 1, 1] false where the state is cleared.
// Returns the output [B, H, V]; changes the state.
mx::array step(const mx::array& q, const mx::array& k, const mx::array& v, const mx::array& g,
               const mx::array& beta, const std::optional<mx::array>& keep, mx::array& state) {
  const auto column = [](const mx::array& x) { return mx::expand_dims(x, 3); };
  auto kept = state * mx::expand_dims(mx::exp(g), {2, 3});
  if (keep) {
    kept = mx::where(*keep, kept, mx::array(0.0F));
  }
  const auto known = mx::squeeze(mx::matmul(mx::expand_dims(k, 2), kept), 2);
  const auto news = (v - known) * mx::expand_dims(beta, 2);
  state = kept + column(k) * mx::expand_dims(news, 2);
  return mx::squeeze(mx::matmul(mx::expand_dims(q, 2), state), 2);
}

} // namespace

GatedDeltaResult gated_delta_sequential(const GatedDeltaInput& input) {
  check_shapes(input);
  const auto s = sizes_of(input.q_BTGD, input.v_BTHV);
  const auto q = mx::repeat(query(input.q_BTGD), s.repeats(), 2);
  const auto k = mx::repeat(l2_norm(input.k_BTGD), s.repeats(), 2);
  const auto v = mx::astype(input.v_BTHV, mx::float32);
  auto state = start_state(input);
  std::vector<mx::array> out;
  for (int t = 0; t < s.tokens; ++t) {
    const auto at = [t](const mx::array& x) { return mx::take(x, t, 1); };
    std::optional<mx::array> keep;
    if (input.positions_BT) {
      keep = mx::expand_dims(mx::greater(at(*input.positions_BT), mx::array(0)), {1, 2, 3});
    }
    out.push_back(step(at(q), at(k), at(v), at(input.g_BTH), at(input.beta_BTH), keep, state));
  }
  return {mx::astype(mx::stack(out, 1), input.v_BTHV.dtype()), state};
}

GatedDeltaResult gated_delta(const GatedDeltaInput& input) {
  if (input.q_BTGD.ndim() > 1 && input.q_BTGD.shape(1) == 1) {
    return gated_delta_sequential(input);
  }
  check_shapes(input);
  const auto dtype = input.v_BTHV.dtype();
  const auto f = [positions = input.positions_BT, dtype](const Arrays& in) {
    const auto result = chunked(in, positions);
    return Arrays{mx::astype(result[0], dtype), result[1]};
  };
  const Arrays inputs{input.q_BTGD,
                      input.k_BTGD,
                      input.v_BTHV,
                      mx::astype(input.g_BTH, mx::float32),
                      mx::astype(input.beta_BTH, mx::float32),
                      start_state(input)};
  const auto result = input.recompute ? recomputed(f)(inputs) : f(inputs);
  return {result[0], result[1]};
}

mx::array gated_rms_norm(const mx::array& x, const mx::array& weight, const mx::array& gate, float eps) {
  const auto f = [eps](const Arrays& in) {
    const auto normed = rms_norm(in[0], mx::astype(in[1], in[0].dtype()), eps);
    const auto y = swiglu(mx::astype(in[2], mx::float32), mx::astype(normed, mx::float32));
    return Arrays{mx::astype(y, in[0].dtype())};
  };
  return recomputed(f)({x, weight, gate})[0];
}

} // namespace temper
