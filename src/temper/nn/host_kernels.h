// The arithmetic behind host operations: plain loops over fp32 memory, vectorized by the compiler for the
// machine's own instructions, spread over its cores. Knows nothing of MLX.
// Dims: N rows (tokens), F features of a row, V vocabulary, H query heads, G key heads, D head_dim.
#pragma once

#include <cstddef>
#include <cstdint>

namespace temper::host {

// out = gate * sigmoid(gate) * up, elementwise over `count`. Source: Shazeer 2020, arXiv:2002.05202.
void swiglu(const float* gate, const float* up, float* out, std::size_t count);
void swiglu_gradient(const float* gate, const float* up, const float* d_out, float* d_gate, float* d_up,
                     std::size_t count);

// out = x / sqrt(mean(x^2) + eps) * weight, by rows. Source: Zhang & Sennrich 2019, arXiv:1910.07467.
void rms_norm(const float* x, const float* weight, float eps, float* out, std::size_t rows,
              std::size_t features);
// d_weight_rows (may be null) [N, F]: each row's part of the weight's gradient.
void rms_norm_gradient(const float* x, const float* weight, float eps, const float* d_out, float* d_x,
                       float* d_weight_rows, std::size_t rows, std::size_t features);

// Rotates heads of x [N, heads * D] pairwise (k with k + K) by cos, sin [N, K]; `direction` -1 rotates back.
void rotate(const float* x, const float* cos, const float* sin, float direction, float* out, std::size_t rows,
            std::size_t heads, std::size_t head_dim, std::size_t half);

// Softmax cross entropy of each row of logits [N, V]: losses [N] = weight * (log sum exp - logit of target),
// and in `logits`' place d_logits = weight * (softmax - one hot), if `d_logits` is not null.
void cross_entropy(const float* logits, const std::int32_t* targets, const float* weights, float* losses,
                   float* d_logits, std::size_t rows, std::size_t vocab);

// Causal attention within documents. q, out [N, H * D]; k, v [N, G * D]; `documents` [M][2]: first token and
// length; tokens outside of every document get zeros. log_sums [N, H] is kept for the gradient.
// Source: the online form is Dao et al. 2022, arXiv:2205.14135; here whole rows of scores fit the cache.
struct AttentionShape {
  std::size_t tokens = 0;
  std::size_t documents = 0;
  std::size_t heads = 0;
  std::size_t kv_heads = 0;
  std::size_t head_dim = 0;
  std::size_t window = 0; // 0: no limit
  float scale = 1.0F;
};
void attention(const AttentionShape& shape, const float* q, const float* k, const float* v,
               const std::int32_t* documents, float* out, float* log_sums);
void attention_gradient(const AttentionShape& shape, const float* q, const float* k, const float* v,
                        const std::int32_t* documents, const float* out, const float* log_sums,
                        const float* d_out, float* d_q, float* d_k, float* d_v);

// Rows times the matrix of each row's expert (expert_matmul.h), by BLAS; not offered on Apple machines.
struct ExpertShape {
  std::size_t rows = 0;
  std::size_t experts = 0;     // E
  std::size_t matrix_rows = 0; // of each expert's matrix
  std::size_t matrix_columns = 0;
};
bool has_expert_kernels();
// out = x M_e, or x M_e^T if `transposed`, by rows; `matrices` [E, matrix_rows, matrix_columns].
void expert_product(const ExpertShape& shape, bool transposed, const float* x, const float* matrices,
                    const std::uint32_t* experts, float* out);
// out [E, matrix_rows, matrix_columns] = sum of left_p right_p^T over each expert's rows.
void expert_outer(const ExpertShape& shape, const float* left, const float* right, const std::uint32_t* experts,
                  float* out);

} // namespace temper::host
