#include "temper/nn/gpu_attention.h"

#include <string>
#include <utility>
#include <vector>

#include "temper/nn/gpu_attention_gradient_sources.h"
#include "temper/nn/gpu_attention_sources.h"
#include "temper/nn/gpu_kernels.h"
#include "temper/nn/gpu_module.h"
#include "temper/nn/gpu_product_sources.h"
#include "temper/nn/gpu_sources.h"

namespace temper::gpu {
namespace {

using Arrays = std::vector<mx::array>;

constexpr int kHeadMultiple = 16;
constexpr int kWidestHead = 256;

// How a kernel's block goes about its tiles: those that were fastest of what was tried on an H200.
struct Tiling {
  int warps;
  int strip;      // tiles of 16 rows that are a warp's own
  int other;      // rows of a tile of the other side
  bool held;      // own rows stay in registers
  int buffers;    // for the other side's tiles
  int blocks = 0; // on a processor at least, where registers are to be saved for that; 0: as it comes

  int own() const {
    return warps * 16 * strip;
  }
};

struct Tilings {
  Tiling forward;
  Tiling queries;
  Tiling keys;
  Tiling values; // where the gradients in keys and values do not fit into registers together
  bool split = false;
};

Tilings tilings(int head_dim, bool packed) {
  if (head_dim <= 64) {
    return packed ? Tilings{{4, 1, 64, false, 2}, {4, 1, 32, false, 2, 4}, {4, 1, 64, true, 2}, {}}
                  : Tilings{{4, 2, 64, false, 2}, {4, 2, 64, false, 2}, {4, 2, 32, false, 2}, {}};
  }
  if (head_dim <= 128) {
    return packed ? Tilings{{4, 1, 32, true, 2}, {4, 1, 32, false, 2, 3}, {4, 1, 32, false, 2}, {}}
                  : Tilings{{4, 2, 32, false, 2}, {4, 2, 32, false, 2}, {4, 1, 64, false, 2}, {}};
  }
  const Tiling one{4, 1, 32, false, 1};
  const Tiling two{4, 1, 32, false, 2};
  const Tiling tall{4, 1, 64, false, 2};
  return packed ? Tilings{tall, two, two, tall, true} : Tilings{{8, 1, 64, false, 2}, one, one, two, true};
}

// What all kernels are told of a problem.
struct Problem {
  AttentionOptions options;
  mx::Dtype dtype;
  int num_tokens;
  int width;
  int head_dim;
  bool packed;

  Problem(const AttentionOptions& o, const mx::array& q, bool has_spans)
      : options(o),
        dtype(q.dtype()),
        num_tokens(q.shape(0) * q.shape(1)),
        width(q.shape(1)),
        head_dim(q.shape(2) / o.num_heads),
        packed(has_spans) {
  }
  std::size_t tiles(const Tiling& tiling) const {
    return ceil_div(static_cast<std::size_t>(num_tokens), static_cast<std::size_t>(tiling.own()));
  }
  Constants constants(const Tiling& tiling) const {
    return {{"D", head_dim},
            {"WARPS", tiling.warps},
            {"MT", tiling.strip},
            {"OTHER", tiling.other},
            {"HELD", tiling.held ? 1 : 0},
            {"BUFFERS", tiling.buffers},
            {"PACKED", packed ? 1 : 0},
            {"WINDOWED", options.window > 0 ? 1 : 0},
            {"CAPPED", options.softcap > 0.0F ? 1 : 0}};
  }
  // own_tiles: of the block's own side, in shared memory; floats: numbers that go with each row of the others.
  Launch launch(const Tiling& tiling, std::size_t blocks, int own_tiles, int floats = 0) const {
    const bool even = !packed && width % tiling.own() == 0;
    const int per_row = even ? width / tiling.own() : static_cast<int>(tiles(tiling));
    Launch how{blocks,
               32 * tiling.warps,
               {num_tokens, width, options.num_heads, options.num_kv_heads, options.window, per_row,
                options.scale, options.softcap}};
    how.shared_bytes = 2 * (head_dim + 8) * (own_tiles * tiling.own() + 2 * tiling.buffers * tiling.other) +
                       4 * floats * tiling.buffers * tiling.other;
    how.blocks_per_processor = tiling.blocks;
    return how;
  }
};

constexpr const char* kScalars =
    "int n, int width, int heads, int groups, int window, int per_row, float scale, float cap";

struct Kernel {
  Source source;
  Constants constants;
  Launch launch;
};

std::string header() {
  return std::string(kHeader) + kMmaHeader + kAttentionHeader;
}

// q, k, v, spans -> the result, and the logarithms of the sums of exponentials [H, N].
Kernel forward_kernel(const Problem& p) {
  const auto tiling = tilings(p.head_dim, p.packed).forward;
  return {{"temper_attention", header(),
           std::string("const T* q, const T* k, const T* v, const int* spans, T* out, float* lse, ") + kScalars,
           kAttentionForward},
          p.constants(tiling),
          p.launch(tiling, p.tiles(tiling) * static_cast<std::size_t>(p.options.num_heads), 1)};
}

// The gradient in q, and the sums over a row and head of d times the result [H, N].
Kernel queries_kernel(const Problem& p) {
  const auto tiling = tilings(p.head_dim, p.packed).queries;
  return {{"temper_attention_queries", header(),
           std::string("const T* q, const T* k, const T* v, const T* out, const T* d, const float* lse, "
                       "const int* spans, T* d_q, float* delta, ") +
               kScalars,
           kAttentionQueries},
          p.constants(tiling),
          p.launch(tiling, p.tiles(tiling) * static_cast<std::size_t>(p.options.num_heads), 2)};
}

// Into how many parts a key head's query heads are split, for blocks on all of a large GPU's processors.
int num_parts(const Problem& p, const Tiling& tiling) {
  constexpr std::size_t kProcessors = 132;
  const auto blocks = p.tiles(tiling) * static_cast<std::size_t>(p.options.num_kv_heads);
  const int repeats = p.options.num_heads / p.options.num_kv_heads;
  int parts = 1;
  while (parts < repeats && (repeats % parts != 0 || blocks * static_cast<std::size_t>(parts) < kProcessors)) {
    ++parts;
  }
  return parts;
}

enum class Sought { keys, values, both };

// The gradients in k, in v, or in both, a part after the other.
Kernel keys_kernel(const Problem& p, const Tiling& tiling, Sought sought) {
  const bool in_keys = sought != Sought::values;
  const bool in_values = sought != Sought::keys;
  const std::string outputs = std::string(in_keys ? "T* d_k, " : "") + (in_values ? "T* d_v, " : "");
  const std::string unused = in_keys ? (in_values ? "" : "T* d_v = nullptr;\n") : "T* d_k = nullptr;\n";
  const int parts = num_parts(p, tiling);
  Kernel kernel{{"temper_attention_keys", header(),
                 "const T* q, const T* k, const T* v, const T* d, const float* lse, const float* delta, "
                 "const int* spans, " +
                     outputs + kScalars + ", int parts",
                 unused + kAttentionKeys},
                p.constants(tiling),
                p.launch(tiling, p.tiles(tiling) * static_cast<std::size_t>(p.options.num_kv_heads * parts),
                         in_keys ? 2 : 1, 2)};
  kernel.constants.insert(kernel.constants.end(), {{"KEYS", in_keys ? 1 : 0}, {"VALUES", in_values ? 1 : 0}});
  kernel.launch.scalars.emplace_back(parts);
  return kernel;
}

std::vector<std::pair<Tiling, Sought>> keys_kernels(const Problem& p) {
  const auto how = tilings(p.head_dim, p.packed);
  if (how.split) {
    return {{how.keys, Sought::keys}, {how.values, Sought::values}};
  }
  return {{how.keys, Sought::both}};
}

// All at once, on threads, where each alone takes near half a second.
void compile_all(const Problem& p) {
  const auto start = [&](const Kernel& k) { compile_ahead(k.source, p.dtype, k.constants, k.launch); };
  start(forward_kernel(p));
  start(queries_kernel(p));
  for (const auto& [tiling, sought] : keys_kernels(p)) {
    start(keys_kernel(p, tiling, sought));
  }
}

Arrays run(const Problem& p, const Kernel& kernel, const Arrays& inputs, const std::vector<mx::Shape>& shapes,
           const std::vector<mx::Dtype>& dtypes) {
  return run_kernel(kernel.source, p.dtype, kernel.constants, inputs, shapes, dtypes, kernel.launch);
}

// A dummy where there are none, which no kernel reads.
mx::array spans_of(const Arrays& in, const Problem& p) {
  return p.packed ? in[3] : in[0];
}

Arrays forward(const Problem& p, const Arrays& in) {
  return run(p, forward_kernel(p), {in[0], in[1], in[2], spans_of(in, p)},
             {in[0].shape(), {p.options.num_heads, p.num_tokens}}, {p.dtype, mx::float32});
}

// The sums of the parts [P, B, T, C] of two arrays.
Arrays sum_of_parts(const Arrays& parts) {
  static const Source kSource{"temper_attention_parts", kHeader, "const T* a, const T* b, T* x, T* y, int size",
                              kAttentionParts};
  constexpr int kThreads = 256;
  const auto shape = mx::Shape(parts[0].shape().begin() + 1, parts[0].shape().end());
  const auto size = parts[0].size() / static_cast<std::size_t>(parts[0].shape(0)) / 8;
  const auto dtype = parts[0].dtype();
  return run_kernel(kSource, dtype, {{"PARTS", parts[0].shape(0)}}, parts, {shape, shape}, {dtype, dtype},
                    {ceil_div(size, kThreads), kThreads, {static_cast<int>(size)}});
}

Arrays key_gradients(const Problem& p, const Arrays& inputs) {
  Arrays gradients;
  for (const auto& [tiling, sought] : keys_kernels(p)) {
    auto shape = inputs[1].shape();
    shape.insert(shape.begin(), num_parts(p, tiling));
    const std::size_t count = sought == Sought::both ? 2 : 1;
    const auto found = run(p, keys_kernel(p, tiling, sought), inputs, std::vector<mx::Shape>(count, shape),
                           std::vector<mx::Dtype>(count, p.dtype));
    gradients.insert(gradients.end(), found.begin(), found.end());
  }
  if (gradients[0].shape(0) > 1) {
    return sum_of_parts(gradients);
  }
  return {mx::squeeze(gradients[0], 0), mx::squeeze(gradients[1], 0)};
}

// in: q, k, v[, spans]; out: forward()'s.
Arrays backward(const Problem& p, const Arrays& in, const mx::array& d, const Arrays& out) {
  const auto spans = spans_of(in, p);
  const auto of_queries = run(p, queries_kernel(p), {in[0], in[1], in[2], out[0], d, out[1], spans},
                              {in[0].shape(), {p.options.num_heads, p.num_tokens}}, {p.dtype, mx::float32});
  Arrays gradients{of_queries[0]};
  const auto of_keys = key_gradients(p, {in[0], in[1], in[2], d, out[1], of_queries[1], spans});
  gradients.insert(gradients.end(), of_keys.begin(), of_keys.end());
  if (p.packed) {
    gradients.push_back(mx::zeros_like(in[3]));
  }
  return gradients;
}

} // namespace

bool attention_serves(mx::Dtype dtype, int head_dim) {
  return head_dim % kHeadMultiple == 0 && head_dim <= kWidestHead && serves(mx::zeros({kHeadMultiple}, dtype));
}

mx::array attention(const AttentionOptions& options, const mx::array& q, const mx::array& k, const mx::array& v,
                    const std::optional<mx::array>& spans) {
  const Problem p(options, q, spans.has_value());
  Arrays inputs{q, k, v};
  if (spans) {
    inputs.push_back(*spans);
  }
  compile_all(p);
  const auto go = [p](const Arrays& in) { return forward(p, in); };
  const auto turn_back = [p](const Arrays& in, const Arrays& cotangents, const Arrays& out) {
    return backward(p, in, cotangents[0], out);
  };
  return mx::custom_vjp(go, turn_back)(inputs)[0];
}

} // namespace temper::gpu
