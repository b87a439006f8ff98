// ggml's block formats as a table. The functions behind it are ggml's own (quants.c).
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct TemperGgmlType {
  const char* name; // "q4_0"
  uint32_t id;      // enum ggml_type, as GGUF files hold it
  int64_t block_weights;
  size_t block_bytes;
  // `src`: rows of n_per_row floats, whole blocks each; NULL where ggml wants an importance matrix.
  size_t (*quantize)(const float* src, void* dst, int64_t nrows, int64_t n_per_row, const float* imatrix);
  void (*dequantize)(const void* src, float* dst, int64_t n);
} TemperGgmlType;

extern const TemperGgmlType temper_ggml_types[];
extern const size_t temper_ggml_num_types;

#ifdef __cplusplus
}
#endif
