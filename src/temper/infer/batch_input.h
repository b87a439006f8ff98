// From a batch in host memory to what the decoder and the loss take.
// Dims: B rows, T row width, N = B T tokens, M documents, L longest document, S supervised positions; M, L
// and S are rounded up so that few shapes recur.
#pragma once

#include <vector>

#include "temper/data/batch.h"
#include "temper/models/decoder.h"
#include "temper/nn/loss.h"

namespace temper {

// How packed rows keep their documents apart.
enum class PackedAttention {
  dense_mask, // one T x T mask a row
  documents,  // each document attends as a row of its own
  host,       // the host kernels, which read documents in place
  spans,      // the CUDA kernels, which read documents in place; a mask where they do not serve
};

// The fastest for the model in `dtype` on the device that MLX computes on.
PackedAttention default_packed_attention(const DecoderSpec& spec, mx::Dtype dtype);

// The arrays of a batch, laid end to end in one: a host array a step is written and handed over, not nine.
struct BatchArrays {
  struct Part {
    mx::Shape shape;
    mx::Dtype dtype; // int32, float32, or bool: a word each
  };
  // tokens, positions, [segments | gather, valid, scatter, real | documents | spans], [lengths], [real],
  // selected, targets, weights (fp32)
  std::vector<Part> parts;
  mx::array words = mx::array(0); // int32
  bool packed = false;
  PackedAttention attention = PackedAttention::dense_mask;
  bool has_lengths = false; // ropes that depend on the length, and NEFTune, read them
  bool has_real = false;    // experts' load balance leaves padding out

  // Two batches with equal keys have the same arrays in shape and meaning: one compiled step serves both.
  std::string shape_key() const;
};

// Copies `batch` into arrays, for `attention` or, where that does not serve the model, documents; weights are
// `weight` where a target counts, 0 elsewhere.
BatchArrays to_arrays(const HostBatch& batch, const DecoderSpec& spec, float weight, PackedAttention attention,
                      bool with_lengths = false);

struct DeviceBatch {
  DecoderInput input;
  LossTargets targets;
};

// Reads `words` (perhaps a traced stand-in for layout.words) as `layout` describes them.
DeviceBatch as_device_batch(const BatchArrays& layout, const mx::array& words);

} // namespace temper
