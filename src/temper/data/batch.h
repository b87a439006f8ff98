// A batch in host memory, as a loader hands it to the one thread that touches MLX.
// Dims: B rows, T row width (a multiple of LoaderOptions::width_multiple), D documents.
#pragma once

#include <cstdint>
#include <vector>

namespace temper {

// A document's place in a batch: one example, or in `compat` mode one row.
struct Document {
  std::int32_t row = 0;
  std::int32_t start = 0;  // first column
  std::int32_t length = 0; // inputs: the example's tokens less its last one
};

// Column t of a row holds input token t of a document and, as its target, the document's token t + 1.
// Padding has token 0, target 0, weight 0, segment -1. Targets stop at a document's last real token.
struct HostBatch {
  int rows = 0;                         // B
  int width = 0;                        // T
  bool packed = false;                  // some row holds more than one document
  std::vector<std::int32_t> tokens;     // [B * T]
  std::vector<std::int32_t> targets;    // [B * T]
  std::vector<std::uint8_t> supervised; // [B * T]: 1 where the target counts in the loss
  std::vector<std::int32_t> positions;  // [B * T]: restart at 0 with each document
  std::vector<std::int32_t> segments;   // [B * T]: index into `documents`, -1 for padding
  std::vector<Document> documents;      // [D], by row, then start
  std::int64_t num_examples = 0;
  std::int64_t num_tokens = 0;     // real tokens: sum of the examples' lengths, the last token included
  std::int64_t num_supervised = 0; // the loss's divisor

  bool empty() const {
    return rows == 0;
  }
};

// What a step computes: a token a column of each row.
inline std::int64_t num_columns(const HostBatch& batch) {
  return std::int64_t{batch.rows} * batch.width;
}

// Tokens of the batch with its padding: its columns, and the last token of each document, which is no input.
// At least num_tokens.
inline std::int64_t num_padded_tokens(const HostBatch& batch) {
  return num_columns(batch) + static_cast<std::int64_t>(batch.documents.size());
}

} // namespace temper
