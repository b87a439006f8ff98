#include "temper/nn/gpu_kernels.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <string>
#include <vector>

#include "temper/nn/gpu_module.h"
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

// One thread for eight elements.
Launch over_elements(std::size_t elements, std::vector<mx::fast::ScalarArg> scalars) {
  return {ceil_div(elements / kVector, kThreads), kThreads, std::move(scalars)};
}

Constants gate_constants(Gate gate) {
  return {{"GELU", gate == Gate::gelu_tanh ? 1 : 0}};
}

Arrays gated_forward(Gate kind, const Arrays& in) {
  static const Source kSource{"temper_gated", std::string(kHeader) + kGateHeader,
                              "const T* gate, const T* up, T* out, int rows, int columns", kGated};
  const auto gate = rows_of(in[0]);
  const auto out =
      run_kernel(kSource, gate.dtype(), gate_constants(kind), {gate, rows_of(in[1])}, {gate.shape()},
                 {gate.dtype()}, over_elements(gate.size(), {gate.shape(0), gate.shape(1)}));
  return {mx::reshape(out[0], in[0].shape())};
}

Arrays gated_backward(Gate kind, const Arrays& in, const Arrays& cotangents) {
  static const Source kSource{
      "temper_gated_gradient", std::string(kHeader) + kGateHeader,
      "const T* gate, const T* up, const T* cotangent, T* d_gate, T* d_up, int rows, int columns",
      kGatedGradient};
  const auto gate = rows_of(in[0]);
  const auto out =
      run_kernel(kSource, gate.dtype(), gate_constants(kind), {gate, rows_of(in[1]), rows_of(cotangents[0])},
                 {gate.shape(), gate.shape()}, {gate.dtype(), gate.dtype()},
                 over_elements(gate.size(), {gate.shape(0), gate.shape(1)}));
  return {mx::reshape(out[0], in[0].shape()), mx::reshape(out[1], in[1].shape())};
}

mx::array turned(const mx::array& x, const mx::array& cos_NK, const mx::array& sin_NK, int num_heads,
                 bool back) {
  static const Source kSource{"temper_rope", kHeader,
                              "const T* x, const float* cos_table, const float* sin_table, T* out, int rows",
                              kRope};
  const auto rows = rows_of(x);
  const int half = cos_NK.shape(1);
  const int head_dim = rows.shape(1) / num_heads;
  const auto elements = static_cast<std::size_t>(rows.shape(0)) * static_cast<std::size_t>(num_heads) *
                        static_cast<std::size_t>(head_dim - half);
  const auto out = run_kernel(
      kSource, rows.dtype(), {{"H", num_heads}, {"D", head_dim}, {"K", half}, {"BACK", back ? 1 : 0}},
      {rows, cos_NK, sin_NK}, {rows.shape()}, {rows.dtype()}, over_elements(elements, {rows.shape(0)}));
  return mx::reshape(out[0], x.shape());
}

// The statement of [begin, end) that a block is of, found by halves.
std::string chosen(const std::vector<std::string>& statements, const std::vector<std::size_t>& ends,
                   std::size_t begin, std::size_t end) {
  if (end - begin == 1) {
    return statements[begin] + "\n";
  }
  const auto middle = (begin + end) / 2;
  return "if (block < " + std::to_string(ends[middle - 1]) + ") {\n" + chosen(statements, ends, begin, middle) +
         "} else {\n" + chosen(statements, ends, middle, end) + "}\n";
}

} // namespace

mx::array dequantize(const PackedWeight& packed, mx::Dtype dtype) {
  const auto& f = packed.format;
  constexpr int kEightsAThread = 4;
  const auto weights = packed.weight.size() * 32 / static_cast<std::size_t>(f.bits);
  if (!packed.biases || !serves(packed.scales) || packed.scales.dtype() != dtype ||
      packed.biases->dtype() != dtype || (f.bits != 2 && f.bits != 4 && f.bits != 8) ||
      weights / kVector > std::numeric_limits<int>::max()) {
    return temper::dequantize(packed, dtype);
  }
  static const Source kSource{"temper_dequantize", kHeader,
                              "const unsigned* words, const T* scales, const T* biases, T* out, int eights",
                              kDequantize};
  auto shape = packed.weight.shape();
  shape.back() = packed.in_features();
  const auto eights = weights / kVector;
  return run_kernel(
      kSource, dtype, {{"BITS", f.bits}, {"GROUP", f.group_size}},
      {mx::stop_gradient(packed.weight), mx::stop_gradient(packed.scales), mx::stop_gradient(*packed.biases)},
      {shape}, {dtype},
      {ceil_div(eights, std::size_t{kEightsAThread} * kThreads), kThreads, {static_cast<int>(eights)}})[0];
}

bool available() {
  return enabled && mx::default_device() == mx::Device::gpu && can_compile();
}

bool serves(const mx::array& x, std::initializer_list<int> multiples_of_8) {
  const auto fits = [](int size) { return size % kVector == 0; };
  return (x.dtype() == mx::bfloat16 || x.dtype() == mx::float16) && fits(x.shape(-1)) &&
         std::all_of(multiples_of_8.begin(), multiples_of_8.end(), fits) && available();
}

void set_kernels(bool on) {
  enabled = on;
}

mx::array gated(Gate kind, const mx::array& gate, const mx::array& up) {
  const auto forward = [kind](const Arrays& in) { return gated_forward(kind, in); };
  const auto backward = [kind](const Arrays& in, const Arrays& cotangents, const Arrays&) {
    return gated_backward(kind, in, cotangents);
  };
  return mx::custom_vjp(forward, backward)({gate, up})[0];
}

mx::array join(const std::vector<mx::array>& arrays) {
  constexpr std::size_t kMost = 400; // pointers: a kernel's parameters are 4 KiB
  constexpr std::size_t kBlock = 8192;
  if (arrays.size() > kMost) {
    Arrays parts;
    for (std::size_t i = 0; i < arrays.size(); i += kMost) {
      parts.push_back(
          join(Arrays(arrays.begin() + static_cast<std::ptrdiff_t>(i),
                      arrays.begin() + static_cast<std::ptrdiff_t>(std::min(arrays.size(), i + kMost)))));
    }
    return join(parts);
  }
  std::string parameters;
  std::vector<std::string> parts;
  std::vector<std::size_t> ends; // in blocks
  int first = 0;
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    const auto n = std::to_string(i);
    const auto begin = ends.empty() ? 0 : ends.back();
    const auto count = static_cast<int>(arrays[i].size());
    parameters += "const T* p" + n + ", ";
    parts.push_back("{ from = p" + n + "; at = " + std::to_string(first) +
                    "; count = " + std::to_string(count) + "; begin = " + std::to_string(begin) + "; }");
    ends.push_back(begin + ceil_div(static_cast<std::size_t>(count), kBlock));
    first += count;
  }
  const auto body = "const int block = blockIdx.x;\nconst T* from;\nint at, count, begin;\n" +
                    chosen(parts, ends, 0, parts.size()) + "copy_part(from, out + at, count, block - begin);";
  const Source source{"temper_join", std::string(kHeader) + kJoinHeader, parameters + "T* out", body};
  const auto dtype = arrays[0].dtype();
  return run_kernel(source, dtype, {}, arrays, {{first}}, {dtype}, {ends.back(), kThreads, {}})[0];
}

namespace {

constexpr int kMostNormVectors = 4; // a thread's
constexpr int kFewestNormFeatures = 128;

struct NormLaunch {
  Constants constants;
  Launch launch;

  NormLaunch(const mx::array& rows, float eps) {
    const int units = rows.shape(1) / kVector;
    const int threads = std::min(kThreads, (units + 31) / 32 * 32);
    constants = {{"UNITS", units}, {"VECTORS", (units + threads - 1) / threads}};
    launch = {static_cast<std::size_t>(rows.shape(0)), threads, {eps}};
  }
};

Arrays norm_gradient(const mx::array& x, const mx::array& weight, float eps, const Arrays& cotangents) {
  static const Source kSource{"temper_norm_gradient", std::string(kHeader) + kNormHeader,
                              "const T* x, const T* weight, const T* passed, const T* d, T* out, float eps",
                              kNormGradient};
  const auto rows = rows_of(x);
  const NormLaunch how(rows, eps);
  const auto out = run_kernel(kSource, x.dtype(), how.constants,
                              {rows, weight, rows_of(cotangents[0]), rows_of(cotangents[1])}, {rows.shape()},
                              {x.dtype()}, how.launch);
  return {mx::reshape(out[0], x.shape())};
}

} // namespace

bool norm_serves(const mx::array& x) {
  return x.shape(-1) >= kFewestNormFeatures && x.shape(-1) <= kMostNormVectors * kThreads * kVector &&
         serves(x);
}

std::pair<mx::array, mx::array> norm_beside(const mx::array& x, const mx::array& weight, float eps) {
  const auto forward = [=](const Arrays& in) {
    static const Source kSource{"temper_norm", std::string(kHeader) + kNormHeader,
                                "const T* x, const T* weight, T* out, float eps", kNorm};
    const auto rows = rows_of(in[0]);
    const NormLaunch how(rows, eps);
    const auto out =
        run_kernel(kSource, x.dtype(), how.constants, {rows, weight}, {rows.shape()}, {x.dtype()}, how.launch);
    return Arrays{in[0], mx::reshape(out[0], in[0].shape())};
  };
  const auto backward = [=](const Arrays& in, const Arrays& cotangents, const Arrays&) {
    return norm_gradient(in[0], weight, eps, cotangents);
  };
  const auto both = mx::custom_vjp(forward, backward)({x});
  return {both[0], both[1]};
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
  static const Source kSource{
      "temper_cross_entropy", kHeader,
      "const T* logits, const int* targets, const float* weights, float* losses, T* gradient, int columns",
      kCrossEntropy};
  const int rows = logits_NV.shape(0);
  const auto out = run_kernel(kSource, logits_NV.dtype(), {}, {logits_NV, targets_N, weights_N},
                              {{rows}, logits_NV.shape()}, {mx::float32, logits_NV.dtype()},
                              {static_cast<std::size_t>(rows), kRowThreads, {logits_NV.shape(1)}});
  return {out[0], out[1]};
}

} // namespace temper::gpu
