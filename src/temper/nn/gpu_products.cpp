// The kernels of gpu_kernels.h with low-rank products.
#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "temper/nn/gpu_kernels.h"
#include "temper/nn/gpu_module.h"
#include "temper/nn/gpu_product_sources.h"
#include "temper/nn/gpu_sources.h"

namespace temper::gpu {
namespace {

using Arrays = std::vector<mx::array>;

constexpr int kThreads = 256;
constexpr int kColumnThreads = 512;

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

// What both kernels over the gated product are told of its updates.
Constants swiglu_constants(const LowRank& gate, const LowRank& up) {
  return {{"TILES", kTiles},
          {"GATE_R", gate.factor.shape(0)},
          {"GATE_FIRST", gate.first},
          {"UP_R", up.factor.shape(0)},
          {"UP_FIRST", up.first},
          {"STRIDE", gate.narrow.shape(1)},
          {"EVEN", is_even(gate) * is_even(up)}};
}

std::string tile_header() {
  return std::string(kHeader) + kMmaHeader + kTileHeader;
}

std::string tile_body(const char* body) {
  return std::string(kPlace) + body;
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

} // namespace

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
  return run_kernel(kSource, gate.dtype(), swiglu_constants(gate_update, up_update),
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
  auto constants = swiglu_constants(gate_update, up_update);
  const Constants of_cotangent{{"D_R", d_update.factor.shape(0)},
                               {"D_FIRST", d_update.first},
                               {"D_STRIDE", d_update.narrow.shape(1)},
                               {"D_EVEN", is_even(d_update)}};
  constants.insert(constants.end(), of_cotangent.begin(), of_cotangent.end());
  return run_kernel(
      kSource, gate.dtype(), constants,
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
  const auto blocks =
      ceil_div(static_cast<std::size_t>(rows), std::size_t{16} * static_cast<std::size_t>(tiles));
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
    const auto own =
        ceil_div(static_cast<std::size_t>(columns), std::size_t{8} * static_cast<std::size_t>(vector));
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

} // namespace temper::gpu
