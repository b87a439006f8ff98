#include "temper/nn/gpu_kernels.h"

#include <algorithm>
#include <atomic>
#include <numeric>
#include <string>
#include <vector>

#include "temper/nn/gpu_module.h"
#include "temper/nn/gpu_product_sources.h"
#include "temper/nn/gpu_sources.h"

namespace temper::gpu {
namespace {

using Arrays = std::vector<mx::array>;

constexpr int kVector = 8; // elements of a 16-byte load
constexpr int kThreads = 256;
constexpr int kRowThreads = 1024;
constexpr int kColumnThreads = 512;

std::atomic<bool> enabled{true};

mx::array rows_of(const mx::array& x) {
  return mx::reshape(x, {-1, x.shape(-1)});
}

std::size_t ceil_div(std::size_t a, std::size_t b) {
  return (a + b - 1) / b;
}

// One thread for eight elements.
Launch over_elements(std::size_t elements, std::vector<mx::fast::ScalarArg> scalars) {
  return {ceil_div(elements / kVector, kThreads), kThreads, std::move(scalars)};
}

// The kernels over tiles: 256 columns a block, then down the rows.
constexpr int kTiles = 4;

Launch over_tiles(const mx::array& base) {
  const auto across = ceil_div(static_cast<std::size_t>(base.shape(1)), kThreads);
  const auto down = ceil_div(static_cast<std::size_t>(base.shape(0)), 16 * kTiles);
  return {across * down, kThreads, {base.shape(0), base.shape(1)}};
}

// Whether pairs of a row's narrow values lie on four bytes.
int is_even(const LowRank& update) {
  return update.narrow.shape(1) % 2 == 0 && update.first % 2 == 0 && update.factor.shape(0) % 2 == 0 ? 1 : 0;
}

std::string tile_header() {
  return std::string(kHeader) + kMmaHeader + kTileHeader;
}

std::string tile_body(const char* body) {
  return std::string(kPlace) + body;
}

Arrays swiglu_forward(const Arrays& in) {
  static const Source kSource{"temper_swiglu", kHeader,
                              "const T* gate, const T* up, T* out, int rows, int columns", kSwiglu};
  const auto gate = rows_of(in[0]);
  const auto out = run_kernel(kSource, gate.dtype(), {}, {gate, rows_of(in[1])}, {gate.shape()}, {gate.dtype()},
                              over_elements(gate.size(), {gate.shape(0), gate.shape(1)}));
  return {mx::reshape(out[0], in[0].shape())};
}

Arrays swiglu_backward(const Arrays& in, const Arrays& cotangents, const Arrays&) {
  static const Source kSource{
      "temper_swiglu_gradient", kHeader,
      "const T* gate, const T* up, const T* cotangent, T* d_gate, T* d_up, int rows, int columns",
      kSwigluGradient};
  const auto gate = rows_of(in[0]);
  const auto out = run_kernel(kSource, gate.dtype(), {}, {gate, rows_of(in[1]), rows_of(cotangents[0])},
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

// Written out, for a kernel over several arrays of different sizes.
std::string call(const std::string& function, const std::vector<int>& constants, const std::string& arguments) {
  std::string text = function + "<";
  for (std::size_t i = 0; i < constants.size(); ++i) {
    text += (i > 0 ? ", " : "") + std::to_string(constants[i]);
  }
  return text + ">(" + arguments + ");";
}

// Where a product's results go: result i takes its own rows of narrow^T.
std::string put_text(const ColumnProduct& product, std::size_t first_output) {
  std::string text = "[&](int r, int c, T v) {";
  int begin = 0;
  for (std::size_t i = 0; i < product.ranks.size(); ++i) {
    const int rank = product.ranks[i];
    const auto row = "(r - " + std::to_string(begin) + ")";
    const auto place = product.transposed
                           ? "size_t(c) * " + std::to_string(rank) + " + " + row
                           : "size_t" + row + " * " + std::to_string(product.wide_NC.shape(1)) + " + c";
    begin += rank;
    text += " if (r < " + std::to_string(begin) + ") { out" + std::to_string(first_output + i) + "[" + place +
            "] = v; return; }";
  }
  return text + " }";
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

bool serves(const mx::array& x, std::initializer_list<int> multiples_of_8) {
  const auto fits = [](int size) { return size % kVector == 0; };
  return enabled && mx::default_device() == mx::Device::gpu &&
         (x.dtype() == mx::bfloat16 || x.dtype() == mx::float16) && fits(x.shape(-1)) &&
         std::all_of(multiples_of_8.begin(), multiples_of_8.end(), fits) && can_compile();
}

void set_kernels(bool on) {
  enabled = on;
}

mx::array swiglu(const mx::array& gate, const mx::array& up) {
  return mx::custom_vjp(swiglu_forward, swiglu_backward)({gate, up})[0];
}

mx::array add_low_rank(const std::vector<mx::array>& bases, const LowRank& update) {
  static const Source kSource{
      "temper_add_low_rank", tile_header(),
      "const T* base, const T* base2, const T* base3, const T* narrow, const T* factor, "
      "T* out, int rows, int columns",
      tile_body(kAddLowRank)};
  const auto& base = bases[0];
  const auto nth = [&](std::size_t i) { return i < bases.size() ? bases[i] : base; };
  return run_kernel(kSource, base.dtype(),
                    {{"TILES", kTiles},
                     {"BASES", static_cast<int>(bases.size())},
                     {"R", update.factor.shape(0)},
                     {"FIRST", update.first},
                     {"STRIDE", update.narrow.shape(1)},
                     {"EVEN", is_even(update)}},
                    {base, nth(1), nth(2), update.narrow, update.factor}, {base.shape()}, {base.dtype()},
                    over_tiles(base))[0];
}

mx::array adapted_swiglu(const mx::array& gate, const mx::array& up, const LowRank& gate_update,
                         const LowRank& up_update) {
  static const Source kSource{"temper_adapted_swiglu", tile_header(),
                              "const T* gate, const T* up, const T* narrow, const T* gate_factor, "
                              "const T* up_factor, T* out, int rows, int columns",
                              tile_body(kAdaptedSwiglu)};
  return run_kernel(kSource, gate.dtype(),
                    {{"TILES", kTiles},
                     {"GATE_R", gate_update.factor.shape(0)},
                     {"GATE_FIRST", gate_update.first},
                     {"UP_R", up_update.factor.shape(0)},
                     {"UP_FIRST", up_update.first},
                     {"STRIDE", gate_update.narrow.shape(1)},
                     {"EVEN", is_even(gate_update) * is_even(up_update)}},
                    {gate, up, gate_update.narrow, gate_update.factor, up_update.factor}, {gate.shape()},
                    {gate.dtype()}, over_tiles(gate))[0];
}

std::vector<mx::array> adapted_swiglu_gradient(const mx::array& gate, const mx::array& up,
                                               const LowRank& gate_update, const LowRank& up_update,
                                               const mx::array& d, const LowRank& d_update) {
  static const Source kSource{"temper_adapted_swiglu_gradient", tile_header(),
                              "const T* gate, const T* up, const T* narrow, const T* gate_factor, "
                              "const T* up_factor, const T* cotangent, const T* d_narrow, const T* d_factor, "
                              "T* d_gate, T* d_up, T* out, int rows, int columns",
                              tile_body(kAdaptedSwigluGradient)};
  return run_kernel(
      kSource, gate.dtype(),
      {{"TILES", kTiles},
       {"GATE_R", gate_update.factor.shape(0)},
       {"GATE_FIRST", gate_update.first},
       {"UP_R", up_update.factor.shape(0)},
       {"UP_FIRST", up_update.first},
       {"STRIDE", gate_update.narrow.shape(1)},
       {"EVEN", is_even(gate_update) * is_even(up_update)},
       {"D_R", d_update.factor.shape(0)},
       {"D_FIRST", d_update.first},
       {"D_STRIDE", d_update.narrow.shape(1)},
       {"D_EVEN", is_even(d_update)}},
      {gate, up, gate_update.narrow, gate_update.factor, up_update.factor, d, d_update.narrow, d_update.factor},
      {gate.shape(), gate.shape(), gate.shape()}, {gate.dtype(), gate.dtype(), gate.dtype()}, over_tiles(gate));
}

mx::array stack_transposed(const std::vector<mx::array>& matrices) {
  const int columns = matrices[0].shape(0);
  std::string parameters;
  std::string body = "const int k = blockIdx.x * blockDim.x + threadIdx.x;\nif (k >= columns) return;\n";
  int first = 0;
  for (std::size_t i = 0; i < matrices.size(); ++i) {
    const auto n = std::to_string(i);
    const auto rank = std::to_string(matrices[i].shape(1));
    parameters += "const T* a" + n + ", ";
    body += "for (int r = 0; r < " + rank + "; ++r) out[size_t(" + std::to_string(first) +
            " + r) * columns + k] = a" + n + "[size_t(k) * " + rank + " + r];\n";
    first += matrices[i].shape(1);
  }
  const Source source{"temper_stack_transposed", "", parameters + "T* out, int columns", body};
  const auto dtype = matrices[0].dtype();
  constexpr int kFewThreads = 64; // for blocks on many processors
  return run_kernel(source, dtype, {}, matrices, {{first, columns}}, {dtype},
                    {ceil_div(static_cast<std::size_t>(columns), kFewThreads), kFewThreads, {columns}})[0];
}

mx::array join(const std::vector<mx::array>& vectors) {
  constexpr std::size_t kMost = 400; // pointers: a kernel's parameters are 4 KiB
  constexpr std::size_t kBlock = 8192;
  if (vectors.size() > kMost) {
    Arrays parts;
    for (std::size_t i = 0; i < vectors.size(); i += kMost) {
      parts.push_back(
          join(Arrays(vectors.begin() + static_cast<std::ptrdiff_t>(i),
                      vectors.begin() + static_cast<std::ptrdiff_t>(std::min(vectors.size(), i + kMost)))));
    }
    return join(parts);
  }
  std::string parameters;
  std::vector<std::string> parts;
  std::vector<std::size_t> ends; // in blocks
  int first = 0;
  for (std::size_t i = 0; i < vectors.size(); ++i) {
    const auto n = std::to_string(i);
    const auto begin = ends.empty() ? 0 : ends.back();
    const int count = vectors[i].shape(0);
    parameters += "const T* p" + n + ", ";
    parts.push_back("{ from = p" + n + "; at = " + std::to_string(first) +
                    "; count = " + std::to_string(count) + "; begin = " + std::to_string(begin) + "; }");
    ends.push_back(begin + ceil_div(static_cast<std::size_t>(count), kBlock));
    first += count;
  }
  const auto body = "const int block = blockIdx.x;\nconst T* from;\nint at, count, begin;\n" +
                    chosen(parts, ends, 0, parts.size()) + "copy_part(from, out + at, count, block - begin);";
  const Source source{"temper_join", std::string(kHeader) + kJoinHeader, parameters + "T* out", body};
  const auto dtype = vectors[0].dtype();
  return run_kernel(source, dtype, {}, vectors, {{first}}, {dtype}, {ends.back(), kThreads, {}})[0];
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

mx::array row_products(const std::vector<RowProduct>& products, float scale) {
  constexpr int kManyRows = 4096; // from where on tiles of 32 rows are enough blocks for a large GPU
  const int rows = products[0].wide_NC.shape(0);
  const int tiles = rows >= kManyRows ? 2 : 1;
  Arrays inputs;
  std::string parameters;
  std::string calls;
  int all = 0;
  int largest = 0;
  for (const auto& [wide, factor] : products) {
    all += factor.shape(0);
    largest = std::max(largest, factor.shape(0));
  }
  int first = 0;
  for (std::size_t i = 0; i < products.size(); ++i) {
    const auto& [wide, factor] = products[i];
    const auto n = std::to_string(i);
    inputs.insert(inputs.end(), {wide, factor});
    parameters += "const T* x" + n + ", const T* f" + n + ", ";
    calls += "if (blockIdx.x / blocks == " + n + ") " +
             call("narrow_product", {factor.shape(0), factor.shape(1)},
                  "x" + n + ", f" + n + ", out + " + std::to_string(first) + ", " + std::to_string(all) +
                      ", rows, blockIdx.x % blocks, scale, parts") +
             "\n";
    first += factor.shape(0);
  }
  const auto space = std::to_string(4 * tiles * ((largest + 7) / 8) * 4);
  const Source source{"temper_row_products", std::string(kHeader) + kMmaHeader + kNarrowHeader,
                      parameters + "T* out, int rows, float scale",
                      "const int blocks = (rows + 16 * TILES - 1) / (16 * TILES);\n__shared__ float parts[" +
                          space + "][32];\n" + calls};
  const auto blocks = ceil_div(static_cast<std::size_t>(rows), static_cast<std::size_t>(16 * tiles));
  const auto dtype = products[0].wide_NC.dtype();
  return run_kernel(source, dtype, {{"TILES", tiles}}, inputs, {{rows, all}}, {dtype},
                    {blocks * products.size(), kThreads, {rows, scale}})[0];
}

std::vector<mx::array> column_products(const std::vector<ColumnProduct>& products) {
  constexpr int kWide = 4096;   // columns from where on blocks of 64 are enough for a large GPU
  constexpr int kFewRanks = 16; // sums of more and 64 columns do not fit into registers
  const int rows = products[0].wide_NC.shape(0);
  const auto dtype = products[0].wide_NC.dtype();
  Arrays inputs;
  std::vector<mx::Shape> shapes;
  std::string parameters;
  std::string outputs;
  std::string calls;
  std::size_t blocks = 0;
  for (std::size_t i = 0; i < products.size(); ++i) {
    const auto& product = products[i];
    const auto n = std::to_string(i);
    const int columns = product.wide_NC.shape(1);
    const int rank = std::accumulate(product.ranks.begin(), product.ranks.end(), 0);
    const int vector = columns >= kWide && rank <= kFewRanks ? 8 : 4;
    const auto own = ceil_div(static_cast<std::size_t>(columns), static_cast<std::size_t>(8 * vector));
    const auto put = put_text(product, shapes.size());
    for (const int part : product.ranks) {
      outputs += "T* out" + std::to_string(shapes.size()) + ", ";
      shapes.push_back(product.transposed ? mx::Shape{columns, part} : mx::Shape{part, columns});
    }
    inputs.insert(inputs.end(), {product.wide_NC, product.narrow});
    parameters += "const T* wide" + n + ", const T* narrow" + n + ", ";
    calls += "if (block >= " + std::to_string(blocks) + " && block < " + std::to_string(blocks + own) + ") " +
             call("column_product", {rank, columns, vector},
                  "wide" + n + ", narrow" + n + " + " + std::to_string(product.first) + ", " +
                      std::to_string(product.narrow.shape(1)) + ", rows, block - " + std::to_string(blocks) +
                      ", parts, " + put) +
             "\n";
    blocks += own;
  }
  const Source source{"temper_column_products", std::string(kHeader) + kMmaHeader + kColumnHeader,
                      parameters + outputs + "int rows",
                      "__shared__ float parts[256][32];\nconst int block = blockIdx.x;\n" + calls};
  return run_kernel(source, dtype, {}, inputs, shapes, std::vector<mx::Dtype>(shapes.size(), dtype),
                    {blocks, kColumnThreads, {rows}});
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
