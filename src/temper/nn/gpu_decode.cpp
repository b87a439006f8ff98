#include "temper/nn/gpu_decode.h"

#include <algorithm>
#include <map>
#include <string>

#include "temper/nn/gpu_decode_sources.h"
#include "temper/nn/gpu_kernels.h"
#include "temper/nn/gpu_module.h"
#include "temper/nn/gpu_sources.h"

namespace temper::gpu {
namespace {

using Arrays = std::vector<mx::array>;

constexpr int kMostRows = 4;
constexpr int kWarps = 8; // a block's
constexpr int kThreads = 32 * kWarps;
constexpr int kVector = 8;                // elements of a 16-byte load
constexpr int kMostNormBytes = 40 * 1024; // of rows in shared memory, which is 48 KB
constexpr int kMostNormVectors = 4;       // a thread's, in norm_added()

int num_rows(const mx::array& x) {
  return static_cast<int>(x.size()) / x.shape(-1);
}

// How a matrix of O rows (of `together` in a group of warps) is shared out. Seen on an H200: some 3,000 warps
// read fastest, twice as many where they read more than four times each.
struct Shares {
  int rows;  // R
  int split; // warps a group
  int depth; // reads of a lane at once, a row

  Shares(int outputs, int in_features, int num, bool turned) : rows(num > 1 && !turned ? 4 : 2) {
    constexpr int kEnough = 3000;
    const int groups = outputs / rows;
    const int most = num > 1 ? kWarps / 2 : kWarps;
    split = 1;
    while (split < most &&
           (groups * split < kEnough || (trips(in_features) > 4 && groups * split < 2 * kEnough))) {
      split *= 2;
    }
    depth = turned ? 2 : 8 / rows;
  }

  int trips(int in_features) const {
    return (in_features / kVector + 32 * split - 1) / (32 * split);
  }
  // Blocks for so many outputs, `each` a group.
  std::size_t blocks(int outputs, int each) const {
    const int a_block = each * (kWarps / split);
    return ceil_div(static_cast<std::size_t>(outputs), static_cast<std::size_t>(a_block));
  }
  Constants constants(int num, int in_features, bool plus_one) const {
    return {{"M", num},
            {"I", in_features},
            {"R", rows},
            {"SPLIT", split},
            {"DEPTH", depth},
            {"WARPS", kWarps},
            {"PLUS_ONE", plus_one ? 1 : 0}};
  }
};

std::string few_header(bool normed) {
  return std::string(kHeader) + "#define NORMED " + (normed ? "1" : "0") + kFewHeader;
}

// The kernel that `make` makes, once for each key.
template <class Make>
const Kernel& known_kernel(std::vector<int> key, mx::Dtype half, const Make& make) {
  static std::map<std::vector<int>, Kernel> known;
  key.push_back(half == mx::bfloat16 ? 0 : 1);
  const auto found = known.find(key);
  return found != known.end() ? found->second : known.emplace(std::move(key), make()).first->second;
}

int num_angle_rows(const HeadAngles& angles) {
  return num_rows(angles.cos);
}

// What a kernel of products is, beside its dtype.
struct ProductsKernel {
  const mx::array& x;
  const std::optional<RowNorm>& norm;
  const std::vector<FewRowProduct>& products;
  const std::optional<HeadAngles>& angles;
  bool added;
  Shares shares;

  int in_features() const {
    return products[0].weight_OI.shape(1);
  }
  int num() const {
    return static_cast<int>(x.size()) / in_features();
  }
  static int outputs_of(const FewRowProduct& product) {
    return product.weight_OI.shape(0);
  }
  std::vector<int> key() const {
    std::vector<int> key{0,
                         num(),
                         in_features(),
                         norm ? 1 + (norm->plus_one ? 1 : 0) : 0,
                         angles ? angles->head_dim : 0,
                         angles ? angles->cos.shape(-1) : 0,
                         angles ? num_angle_rows(*angles) : 0,
                         added ? 1 : 0};
    for (const auto& product : products) {
      key.push_back(outputs_of(product));
      key.push_back((product.bias_O ? 1 : 0) + (product.turned ? 2 : 0));
    }
    return key;
  }
  std::size_t blocks() const {
    std::size_t blocks = 0;
    for (const auto& product : products) {
      blocks += shares.blocks(outputs_of(product), shares.rows);
    }
    return blocks;
  }
  Source source() const {
    std::string parameters =
        "const T* x, const T* norm, const T* stream, const float* cos_table, const float* sin_table, ";
    std::string results;
    std::string choice = "const T* weight;\nconst T* bias;\nT* out;\nint outputs, block, turned;\n";
    std::size_t first = 0;
    for (std::size_t i = 0; i < products.size(); ++i) {
      const auto n = std::to_string(i);
      const auto& product = products[i];
      const auto begin = first;
      first += shares.blocks(outputs_of(product), shares.rows);
      parameters += "const T* w" + n + ", " + (product.bias_O ? "const T* b" + n + ", " : "");
      results += "T* out" + n + ", ";
      choice += std::string(i > 0 ? "else " : "") +
                (i + 1 < products.size() ? "if (blockIdx.x < " + std::to_string(first) + ") " : "") +
                "{ weight = w" + n + "; bias = " + (product.bias_O ? "b" + n : "nullptr") + "; out = out" + n +
                "; outputs = " + std::to_string(outputs_of(product)) + "; block = blockIdx.x - " +
                std::to_string(begin) + "; turned = " + (product.turned ? "1" : "0") + "; }\n";
    }
    return {"temper_few_products", few_header(norm.has_value()),
            parameters + results + "float eps, float scale", choice + kFewProducts};
  }
  Kernel kernel() const {
    auto constants = shares.constants(num(), in_features(), norm && norm->plus_one);
    constants.insert(constants.end(),
                     {{"D", angles ? angles->head_dim : 2},
                      {"K", angles ? angles->cos.shape(-1) : 0},
                      {"ANGLES", angles && num_angle_rows(*angles) > 1 ? angles->cos.shape(-1) : 0},
                      {"ADDED", added ? 1 : 0}});
    return make_kernel(source(), x.dtype(), constants, kThreads);
  }
};

Arrays run_products(const mx::array& x, const std::optional<RowNorm>& norm,
                    const std::vector<FewRowProduct>& products, const std::optional<HeadAngles>& angles,
                    const mx::array* stream, float scale) {
  int outputs = 0;
  bool turned = false;
  Arrays inputs{x, norm ? norm->weight : x, stream != nullptr ? *stream : x, angles ? angles->cos : x,
                angles ? angles->sin : x};
  std::vector<mx::Shape> shapes;
  for (const auto& product : products) {
    outputs += product.weight_OI.shape(0);
    turned = turned || product.turned;
    inputs.push_back(product.weight_OI);
    if (product.bias_O) {
      inputs.push_back(*product.bias_O);
    }
    shapes.push_back(product.shape);
  }
  const int in_features = products[0].weight_OI.shape(1);
  const int num = static_cast<int>(x.size()) / in_features;
  const ProductsKernel how{
      x, norm, products, angles, stream != nullptr, Shares(outputs, in_features, num, turned)};
  const auto& kernel = known_kernel(how.key(), x.dtype(), [&] { return how.kernel(); });
  return launch_kernel(kernel, how.blocks(), inputs, shapes, std::vector<mx::Dtype>(products.size(), x.dtype()),
                       {norm ? norm->eps : 0.0F, scale});
}

} // namespace

bool few_rows_serve(const mx::array& x) {
  return num_rows(x) <= kMostRows && num_rows(x) * x.shape(-1) * 2 <= kMostNormBytes && serves(x);
}

Arrays few_row_products(const mx::array& x, const std::optional<RowNorm>& norm,
                        const std::vector<FewRowProduct>& products, const std::optional<HeadAngles>& angles) {
  return run_products(x, norm, products, angles, nullptr, 1.0F);
}

mx::array few_row_sum(const mx::array& x, const mx::array& weight_OI, const std::optional<mx::array>& bias_O,
                      const mx::array& stream, float scale) {
  return run_products(x, std::nullopt, {{weight_OI, bias_O, stream.shape()}}, std::nullopt, &stream, scale)[0];
}

mx::array few_row_glu(const mx::array& x, const RowNorm& norm, const mx::array& gate_FI, const mx::array& up_FI,
                      Activation activation, float limit) {
  const int outputs = gate_FI.shape(0);
  const int num = num_rows(x);
  const Shares shares(2 * outputs, x.shape(-1), num, false);
  const auto make = [&] {
    const Source source{
        "temper_few_gated", few_header(true),
        "const T* x, const T* norm, const T* gate, const T* up, T* out, int outputs, float eps, "
        "float limit",
        kFewGated};
    auto constants = shares.constants(num, x.shape(-1), norm.plus_one);
    constants.emplace_back("ACTIVATION", static_cast<int>(activation));
    return make_kernel(source, x.dtype(), constants, kThreads);
  };
  const auto& kernel = known_kernel(
      {1, num, x.shape(-1), outputs, norm.plus_one ? 1 : 0, static_cast<int>(activation)}, x.dtype(), make);
  auto shape = x.shape();
  shape.back() = outputs;
  return launch_kernel(kernel, shares.blocks(outputs, shares.rows / 2), {x, norm.weight, gate_FI, up_FI},
                       {shape}, {x.dtype()}, {outputs, norm.eps, limit})[0];
}

std::pair<mx::array, mx::array> normed_heads(const mx::array& q, const mx::array& k, const RowNorm& of_q,
                                             const RowNorm& of_k, const std::optional<HeadAngles>& angles) {
  constexpr int kHeadsABlock = 4;
  const int rows = q.shape(0);
  const int head_dim = q.shape(-1);
  const int half = angles ? angles->cos.shape(-1) : 0;
  const int stride = angles && num_angle_rows(*angles) > 1 ? half : 0;
  const auto make = [&] {
    const Source source{"temper_normed_heads", kHeader,
                        "const T* q, const T* k, const T* q_weight, const T* k_weight, const float* cos_table, "
                        "const float* sin_table, T* q_out, T* k_out, int rows, float eps",
                        kHeads};
    return make_kernel(source, q.dtype(),
                       {{"H", q.shape(1)},
                        {"G", k.shape(1)},
                        {"D", head_dim},
                        {"K", half},
                        {"ANGLES", stride},
                        {"PLUS_ONE", of_q.plus_one ? 1 : 0}},
                       32 * kHeadsABlock);
  };
  const auto& kernel =
      known_kernel({2, q.shape(1), k.shape(1), head_dim, half, stride, of_q.plus_one ? 1 : 0}, q.dtype(), make);
  const int heads = rows * (q.shape(1) + k.shape(1));
  const auto out =
      launch_kernel(kernel, ceil_div(static_cast<std::size_t>(heads), kHeadsABlock),
                    {q, k, of_q.weight, of_k.weight, angles ? angles->cos : q, angles ? angles->sin : q},
                    {q.shape(), k.shape()}, {q.dtype(), q.dtype()}, {rows, of_q.eps});
  return {out[0], out[1]};
}

bool norm_added_serves(const mx::array& x) {
  return few_rows_serve(x) && x.shape(-1) <= kMostNormVectors * kThreads * kVector;
}

mx::array norm_added(const mx::array& stream, const mx::array& y, const RowNorm& norm, float scale) {
  const int features = y.shape(-1);
  const int units = features / kVector;
  const int threads = std::min(kThreads, (units + 31) / 32 * 32);
  const auto make = [&] {
    const Source source{"temper_norm_added", std::string(kHeader) + kNormHeader,
                        "const T* stream, const T* y, const T* weight, T* out, float eps, float scale",
                        kNormAdded};
    return make_kernel(
        source, y.dtype(),
        {{"I", features}, {"VECTORS", (units + threads - 1) / threads}, {"PLUS_ONE", norm.plus_one ? 1 : 0}},
        threads);
  };
  const auto& kernel = known_kernel({3, features, norm.plus_one ? 1 : 0}, y.dtype(), make);
  return launch_kernel(kernel, static_cast<std::size_t>(num_rows(y)), {stream, y, norm.weight}, {y.shape()},
                       {y.dtype()}, {norm.eps, scale})[0];
}

std::pair<mx::array, mx::array> token_angles(const mx::array& offsets, const mx::array& periods_K) {
  constexpr int kFewThreads = 64;
  const int rows = static_cast<int>(offsets.size());
  const int half = periods_K.shape(0);
  const auto make = [&] {
    const Source source{"temper_angles", "",
                        "const int* offsets, const float* periods, float* cosines, float* sines, int rows",
                        kAngles};
    return make_kernel(source, mx::bfloat16, {{"K", half}}, kFewThreads);
  };
  const auto& kernel = known_kernel({4, half}, mx::bfloat16, make);
  const int angles = rows * half;
  const mx::Shape shape{rows, 1, 1, half};
  const auto out = launch_kernel(kernel, ceil_div(static_cast<std::size_t>(angles), kFewThreads),
                                 {offsets, periods_K}, {shape, shape}, {mx::float32, mx::float32}, {rows});
  return {out[0], out[1]};
}

} // namespace temper::gpu
