#include "temper/nn/gpu_kernels.h"

#include <algorithm>
#include <atomic>
#include <string>
#include <tuple>
#include <vector>

#include <mlx/backend/cuda/cuda.h>
#include <mlx/fast.h>

#include "temper/nn/gpu_sources.h"

namespace temper::gpu {
namespace {

using Arrays = std::vector<mx::array>;

constexpr int kVector = 8; // elements of a 16-byte load
constexpr int kThreads = 256;
constexpr int kRowThreads = 1024;

std::atomic<bool> enabled{true};

mx::array rows_of(const mx::array& x) {
  return mx::reshape(x, {-1, x.shape(-1)});
}

int threads_for(std::size_t elements) {
  return static_cast<int>((elements / kVector + kThreads - 1) / kThreads) * kThreads;
}

constexpr int kRowsAThread = 4;    // of add_low_rank
constexpr int kGluRowsAThread = 2; // of the others, which hold more

using Grid = std::tuple<int, int, int>;

// Blocks along a row, then down the rows.
std::pair<Grid, Grid> place_grid(const mx::array& base, int rows_a_thread) {
  const int vectors = base.shape(1) / kVector;
  const int threads = std::min(kThreads, (vectors + 31) / 32 * 32);
  const int blocks = (vectors + threads - 1) / threads;
  const int groups = (base.shape(0) + rows_a_thread - 1) / rows_a_thread;
  return {{blocks * groups * threads, 1, 1}, {threads, 1, 1}};
}

// Whether a row's narrow values are whole 16-byte vectors.
bool is_aligned(const LowRank& update) {
  return update.narrow.shape(1) % kVector == 0 && update.first % kVector == 0 &&
         update.factor.shape(0) % kVector == 0;
}

std::string low_rank_header() {
  return std::string(kHeader) + kLowRankHeader;
}

Arrays swiglu_forward(const Arrays& in) {
  static const auto kernel = mx::fast::cuda_kernel("temper_swiglu", {"gate", "up"}, {"out"}, kSwiglu, kHeader);
  const auto gate = rows_of(in[0]);
  const auto out =
      kernel({gate, rows_of(in[1])}, {gate.shape()}, {gate.dtype()}, {threads_for(gate.size()), 1, 1},
             {kThreads, 1, 1}, {{"T", gate.dtype()}}, std::nullopt, false, {});
  return {mx::reshape(out[0], in[0].shape())};
}

Arrays swiglu_backward(const Arrays& in, const Arrays& cotangents, const Arrays&) {
  static const auto kernel = mx::fast::cuda_kernel("temper_swiglu_gradient", {"gate", "up", "cotangent"},
                                                   {"d_gate", "d_up"}, kSwigluGradient, kHeader);
  const auto gate = rows_of(in[0]);
  const auto out = kernel({gate, rows_of(in[1]), rows_of(cotangents[0])}, {gate.shape(), gate.shape()},
                          {gate.dtype(), gate.dtype()}, {threads_for(gate.size()), 1, 1}, {kThreads, 1, 1},
                          {{"T", gate.dtype()}}, std::nullopt, false, {});
  return {mx::reshape(out[0], in[0].shape()), mx::reshape(out[1], in[1].shape())};
}

mx::array turned(const mx::array& x, const mx::array& cos_NK, const mx::array& sin_NK, int num_heads,
                 bool back) {
  static const auto kernel =
      mx::fast::cuda_kernel("temper_rope", {"x", "cos_table", "sin_table"}, {"out"}, kRope, kHeader);
  const auto rows = rows_of(x);
  const int half = cos_NK.shape(1);
  const int head_dim = rows.shape(1) / num_heads;
  const int threads =
      threads_for(static_cast<std::size_t>(rows.shape(0)) * static_cast<std::size_t>(num_heads) *
                  static_cast<std::size_t>(head_dim - half));
  const auto out =
      kernel({rows, cos_NK, sin_NK}, {rows.shape()}, {rows.dtype()}, {threads, 1, 1}, {kThreads, 1, 1},
             {{"T", rows.dtype()}, {"H", num_heads}, {"D", head_dim}, {"K", half}, {"BACK", back}},
             std::nullopt, false, {});
  return mx::reshape(out[0], x.shape());
}

} // namespace

bool serves(const mx::array& x, std::initializer_list<int> multiples_of_8) {
  const auto fits = [](int size) { return size % kVector == 0; };
  return enabled && mx::cu::is_available() && mx::default_device() == mx::Device::gpu &&
         (x.dtype() == mx::bfloat16 || x.dtype() == mx::float16) && fits(x.shape(-1)) &&
         std::all_of(multiples_of_8.begin(), multiples_of_8.end(), fits);
}

void set_kernels(bool on) {
  enabled = on;
}

mx::array swiglu(const mx::array& gate, const mx::array& up) {
  return mx::custom_vjp(swiglu_forward, swiglu_backward)({gate, up})[0];
}

mx::array add_low_rank(const std::vector<mx::array>& bases, const LowRank& update) {
  static const auto kernel =
      mx::fast::cuda_kernel("temper_add_low_rank", {"base", "base2", "base3", "narrow", "factor"}, {"out"},
                            std::string(kPlace) + kAddLowRank, low_rank_header());
  const auto& base = bases[0];
  const auto nth = [&](std::size_t i) { return i < bases.size() ? bases[i] : base; };
  const auto [grid, threads] = place_grid(base, kRowsAThread);
  return kernel({base, nth(1), nth(2), update.narrow, update.factor}, {base.shape()}, {base.dtype()}, grid,
                threads,
                {{"T", base.dtype()},
                 {"ROWS", kRowsAThread},
                 {"BASES", static_cast<int>(bases.size())},
                 {"R", update.factor.shape(0)},
                 {"FIRST", update.first},
                 {"ALIGNED", is_aligned(update)}},
                std::nullopt, false, {})[0];
}

mx::array adapted_swiglu(const mx::array& gate, const mx::array& up, const LowRank& gate_update,
                         const LowRank& up_update) {
  static const auto kernel =
      mx::fast::cuda_kernel("temper_adapted_swiglu", {"base", "up", "narrow", "gate_factor", "up_factor"},
                            {"out"}, std::string(kPlace) + kAdaptedSwiglu, low_rank_header());
  const auto [grid, threads] = place_grid(gate, kGluRowsAThread);
  return kernel({gate, up, gate_update.narrow, gate_update.factor, up_update.factor}, {gate.shape()},
                {gate.dtype()}, grid, threads,
                {{"T", gate.dtype()},
                 {"ROWS", kGluRowsAThread},
                 {"GATE_R", gate_update.factor.shape(0)},
                 {"GATE_FIRST", gate_update.first},
                 {"UP_R", up_update.factor.shape(0)},
                 {"UP_FIRST", up_update.first},
                 {"ALIGNED", is_aligned(gate_update) && is_aligned(up_update)}},
                std::nullopt, false, {})[0];
}

std::vector<mx::array> adapted_swiglu_gradient(const mx::array& gate, const mx::array& up,
                                               const LowRank& gate_update, const LowRank& up_update,
                                               const mx::array& d, const LowRank& d_update) {
  static const auto kernel = mx::fast::cuda_kernel(
      "temper_adapted_swiglu_gradient",
      {"base", "up", "narrow", "gate_factor", "up_factor", "cotangent", "d_narrow", "d_factor"},
      {"d_gate", "d_up", "out"}, std::string(kPlace) + kAdaptedSwigluGradient, low_rank_header());
  const auto [grid, threads] = place_grid(gate, kGluRowsAThread);
  return kernel(
      {gate, up, gate_update.narrow, gate_update.factor, up_update.factor, d, d_update.narrow, d_update.factor},
      {gate.shape(), gate.shape(), gate.shape()}, {gate.dtype(), gate.dtype(), gate.dtype()}, grid, threads,
      {{"T", gate.dtype()},
       {"ROWS", kGluRowsAThread},
       {"GATE_R", gate_update.factor.shape(0)},
       {"GATE_FIRST", gate_update.first},
       {"UP_R", up_update.factor.shape(0)},
       {"UP_FIRST", up_update.first},
       {"D_R", d_update.factor.shape(0)},
       {"ALIGNED", is_aligned(gate_update) && is_aligned(up_update)},
       {"D_ALIGNED", is_aligned(d_update)}},
      std::nullopt, false, {});
}

mx::array rope(const mx::array& x, const mx::array& cos_NK, const mx::array& sin_NK, int num_heads) {
  const auto forward = [=](const Arrays& in) {
    return Arrays{turned(in[0], cos_NK, sin_NK, num_heads, false)};
  };
  const auto backward = [=](const Arrays&, const Arrays& cotangents, const Arrays&) {
    return Arrays{turned(cotangents[0], cos_NK, sin_NK, num_heads, true)};
  };
  return mx::custom_vjp(forward, backward)({x})[0];
}

std::pair<mx::array, mx::array> cross_entropy(const mx::array& logits_NV, const mx::array& targets_N,
                                              const mx::array& weights_N) {
  static const auto kernel = mx::fast::cuda_kernel("temper_cross_entropy", {"logits", "targets", "weights"},
                                                   {"losses", "gradient"}, kCrossEntropy, kHeader);
  const int rows = logits_NV.shape(0);
  const auto out = kernel({logits_NV, targets_N, weights_N}, {{rows}, logits_NV.shape()},
                          {mx::float32, logits_NV.dtype()}, {rows * kRowThreads, 1, 1}, {kRowThreads, 1, 1},
                          {{"T", logits_NV.dtype()}}, std::nullopt, false, {});
  return {out[0], out[1]};
}

} // namespace temper::gpu
