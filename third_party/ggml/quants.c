// ggml-quants.c as one translation unit with nothing to export but the table below: its functions become static,
// so that the compiler drops those that the table does not name, and a program may link all of ggml beside us.
#include <stdio.h>
#include <stdlib.h>

// What ggml-quants.c calls of ggml.c, and the one function that another header declares.
#define ggml_validate_row_data temper_ggml_validate_row_data
#define ggml_abort temper_ggml_abort
#define ggml_row_size temper_ggml_row_size
#define ggml_type_name temper_ggml_type_name
#define ggml_type_size temper_ggml_type_size
#include "ggml.h"
#undef GGML_API
#define GGML_API static
#include "ggml-quants.c"

#include "ggml_quants.h"

void temper_ggml_abort(const char* file, int line, const char* fmt, ...) {
  fprintf(stderr, "%s:%d: %s\n", file, line, fmt);
  abort();
}

static size_t quantize_f32(const float* src, void* dst, int64_t nrows, int64_t n_per_row, const float* imatrix) {
  (void)imatrix;
  memcpy(dst, src, nrows * n_per_row * sizeof(float));
  return nrows * n_per_row * sizeof(float);
}
static size_t quantize_f16(const float* src, void* dst, int64_t nrows, int64_t n_per_row, const float* imatrix) {
  (void)imatrix;
  for (int64_t i = 0; i < nrows * n_per_row; i++) {
    ((ggml_fp16_t*)dst)[i] = GGML_FP32_TO_FP16(src[i]);
  }
  return nrows * n_per_row * sizeof(ggml_fp16_t);
}
static size_t quantize_bf16(const float* src, void* dst, int64_t nrows, int64_t n_per_row, const float* imatrix) {
  (void)imatrix;
  for (int64_t i = 0; i < nrows * n_per_row; i++) {
    ((ggml_bf16_t*)dst)[i] = GGML_FP32_TO_BF16(src[i]);
  }
  return nrows * n_per_row * sizeof(ggml_bf16_t);
}
static void unpack_f32(const void* src, float* dst, int64_t n) { memcpy(dst, src, n * sizeof(float)); }
static void unpack_f16(const void* src, float* dst, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    dst[i] = GGML_FP16_TO_FP32(((const ggml_fp16_t*)src)[i]);
  }
}
static void unpack_bf16(const void* src, float* dst, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    dst[i] = GGML_BF16_TO_FP32(((const ggml_bf16_t*)src)[i]);
  }
}

#define UNPACK(type) \
  static void unpack_##type(const void* src, float* dst, int64_t n) { dequantize_row_##type(src, dst, n); }
UNPACK(q4_0) UNPACK(q4_1) UNPACK(q5_0) UNPACK(q5_1) UNPACK(q8_0)
UNPACK(q2_K) UNPACK(q3_K) UNPACK(q4_K) UNPACK(q5_K) UNPACK(q6_K)
UNPACK(iq2_xxs) UNPACK(iq2_xs) UNPACK(iq2_s) UNPACK(iq3_xxs) UNPACK(iq3_s) UNPACK(iq1_s) UNPACK(iq1_m)
UNPACK(iq4_nl) UNPACK(iq4_xs) UNPACK(tq1_0) UNPACK(tq2_0) UNPACK(mxfp4) UNPACK(nvfp4)

#define TYPE(ID, type, weights) {#type, GGML_TYPE_##ID, weights, sizeof(block_##type), quantize_##type, unpack_##type}
#define READ_ONLY(ID, type) {#type, GGML_TYPE_##ID, QK_K, sizeof(block_##type), NULL, unpack_##type}
const TemperGgmlType temper_ggml_types[] = {
    {"f32", GGML_TYPE_F32, 1, sizeof(float), quantize_f32, unpack_f32},
    {"f16", GGML_TYPE_F16, 1, sizeof(ggml_fp16_t), quantize_f16, unpack_f16},
    {"bf16", GGML_TYPE_BF16, 1, sizeof(ggml_bf16_t), quantize_bf16, unpack_bf16},
    TYPE(Q4_0, q4_0, QK4_0), TYPE(Q4_1, q4_1, QK4_1), TYPE(Q5_0, q5_0, QK5_0), TYPE(Q5_1, q5_1, QK5_1),
    TYPE(Q8_0, q8_0, QK8_0), TYPE(Q2_K, q2_K, QK_K), TYPE(Q3_K, q3_K, QK_K), TYPE(Q4_K, q4_K, QK_K),
    TYPE(Q5_K, q5_K, QK_K), TYPE(Q6_K, q6_K, QK_K), TYPE(IQ4_NL, iq4_nl, QK4_NL), TYPE(IQ4_XS, iq4_xs, QK_K),
    TYPE(TQ1_0, tq1_0, QK_K), TYPE(TQ2_0, tq2_0, QK_K), TYPE(MXFP4, mxfp4, QK_MXFP4), TYPE(NVFP4, nvfp4, QK_NVFP4),
    READ_ONLY(IQ2_XXS, iq2_xxs), READ_ONLY(IQ2_XS, iq2_xs), READ_ONLY(IQ2_S, iq2_s), READ_ONLY(IQ3_XXS, iq3_xxs),
    READ_ONLY(IQ3_S, iq3_s), READ_ONLY(IQ1_S, iq1_s), READ_ONLY(IQ1_M, iq1_m),
};
const size_t temper_ggml_num_types = sizeof(temper_ggml_types) / sizeof(temper_ggml_types[0]);

static const TemperGgmlType* find_type(enum ggml_type type) {
  for (size_t i = 0; i < temper_ggml_num_types; i++) {
    if (temper_ggml_types[i].id == (uint32_t)type) {
      return &temper_ggml_types[i];
    }
  }
  abort();
}
size_t temper_ggml_type_size(enum ggml_type type) { return find_type(type)->block_bytes; }
size_t temper_ggml_row_size(enum ggml_type type, int64_t n) {
  const TemperGgmlType* found = find_type(type);
  return found->block_bytes * (size_t)(n / found->block_weights);
}
const char* temper_ggml_type_name(enum ggml_type type) { return find_type(type)->name; }
