// One matrix product for each run of rows that go to the same expert.
#include <algorithm>

#include "temper/nn/host_kernels.h"

#ifndef __APPLE__
// OpenBLAS answers (cmake/dependencies.cmake); declared here, since distributions put its header in different
// places.
extern "C" void cblas_sgemm(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha,
                            const float* a, int lda, const float* b, int ldb, float beta, float* c, int ldc);
#endif

namespace temper::host {

#ifdef __APPLE__

// An Apple machine computes on its GPU; on its CPU MLX's own product serves.
bool has_expert_kernels() {
  return false;
}
void expert_product(const ExpertShape&, bool, const float*, const float*, const std::uint32_t*, float*) {
}
void expert_outer(const ExpertShape&, const float*, const float*, const std::uint32_t*, float*) {
}

#else

namespace {

constexpr int kRowMajor = 101;
constexpr int kNoTranspose = 111;
constexpr int kTranspose = 112;

// Calls body(expert, first row, number of rows) for each run of one expert's rows.
template <typename Body>
void for_each_run(const std::uint32_t* experts, std::size_t rows, const Body& body) {
  for (std::size_t begin = 0, end = 0; begin < rows; begin = end) {
    const auto expert = experts[begin];
    while (end < rows && experts[end] == expert) {
      ++end;
    }
    body(std::size_t{expert}, begin, static_cast<int>(end - begin));
  }
}

} // namespace

bool has_expert_kernels() {
  return true;
}

void expert_product(const ExpertShape& shape, bool transposed, const float* x, const float* matrices,
                    const std::uint32_t* experts, float* out) {
  const int columns = static_cast<int>(shape.matrix_columns);
  const int in = transposed ? columns : static_cast<int>(shape.matrix_rows);
  const int features = transposed ? static_cast<int>(shape.matrix_rows) : columns;
  for_each_run(experts, shape.rows, [&](std::size_t expert, std::size_t begin, int count) {
    cblas_sgemm(kRowMajor, kNoTranspose, transposed ? kTranspose : kNoTranspose, count, features, in, 1.0F,
                x + begin * static_cast<std::size_t>(in), in,
                matrices + expert * shape.matrix_rows * shape.matrix_columns, columns, 0.0F,
                out + begin * static_cast<std::size_t>(features), features);
  });
}

void expert_outer(const ExpertShape& shape, const float* left, const float* right, const std::uint32_t* experts,
                  float* out) {
  const std::size_t matrix = shape.matrix_rows * shape.matrix_columns;
  const int rows = static_cast<int>(shape.matrix_rows);
  const int columns = static_cast<int>(shape.matrix_columns);
  std::fill(out, out + shape.experts * matrix, 0.0F);
  for_each_run(experts, shape.rows, [&](std::size_t expert, std::size_t begin, int count) {
    cblas_sgemm(kRowMajor, kTranspose, kNoTranspose, rows, columns, count, 1.0F,
                left + begin * shape.matrix_rows, rows, right + begin * shape.matrix_columns, columns, 1.0F,
                out + expert * matrix, columns);
  });
}

#endif

} // namespace temper::host
