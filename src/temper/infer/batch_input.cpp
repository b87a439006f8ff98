#include "temper/infer/batch_input.h"

#include <algorithm>

#include "temper/base/error.h"

namespace temper {
namespace {

constexpr int kLengthMultiple = 32;
constexpr int kSelectedMultiple = 64;

int round_up(int value, int multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

mx::array int_array(const std::vector<std::int32_t>& values, mx::Shape shape) {
  return mx::array(values.data(), std::move(shape), mx::int32);
}

mx::array flag_array(const std::vector<std::uint8_t>& values, mx::Shape shape) {
  return mx::array(reinterpret_cast<const bool*>(values.data()), std::move(shape), mx::bool_);
}

void push_segments(const HostBatch& batch, std::vector<mx::array>& arrays) {
  arrays.push_back(int_array(batch.segments, {batch.rows, batch.width}));
}

// Where each document stands among the batch's tokens.
void push_places(const HostBatch& batch, std::vector<mx::array>& arrays) {
  std::vector<std::int32_t> places;
  for (const auto& document : batch.documents) {
    places.push_back(document.row * batch.width + document.start);
    places.push_back(document.length);
  }
  arrays.push_back(int_array(places, {static_cast<int>(batch.documents.size()), 2}));
}

// Each document's tokens as a row, and the way back.
void push_documents(const HostBatch& batch, std::vector<mx::array>& arrays) {
  int longest = 1;
  for (const auto& document : batch.documents) {
    longest = std::max(longest, document.length);
  }
  const int length = round_up(longest, kLengthMultiple);
  const int num_documents = static_cast<int>(batch.documents.size());
  const auto num_places = static_cast<std::size_t>(num_documents) * static_cast<std::size_t>(length);
  const auto num_tokens = static_cast<std::size_t>(batch.rows) * static_cast<std::size_t>(batch.width);
  std::vector<std::int32_t> gather(num_places, 0);
  std::vector<std::uint8_t> valid(num_places, 0);
  std::vector<std::int32_t> scatter(num_tokens, 0);
  std::vector<std::uint8_t> real(num_tokens, 0);
  for (int m = 0; m < num_documents; ++m) {
    const auto& document = batch.documents[static_cast<std::size_t>(m)];
    for (int i = 0; i < document.length; ++i) {
      const int token = document.row * batch.width + document.start + i;
      const int place = m * length + i;
      gather[static_cast<std::size_t>(place)] = token;
      valid[static_cast<std::size_t>(place)] = 1;
      scatter[static_cast<std::size_t>(token)] = place;
      real[static_cast<std::size_t>(token)] = 1;
    }
  }
  arrays.push_back(int_array(gather, {num_documents, length}));
  arrays.push_back(flag_array(valid, {num_documents, length}));
  arrays.push_back(int_array(scatter, {static_cast<int>(num_tokens)}));
  arrays.push_back(flag_array(real, {static_cast<int>(num_tokens)}));
}

// The length of the document that each token belongs to; 1 for padding.
mx::array lengths(const HostBatch& batch) {
  std::vector<std::int32_t> values(batch.segments.size(), 1);
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (batch.segments[i] >= 0) {
      values[i] = batch.documents[static_cast<std::size_t>(batch.segments[i])].length;
    }
  }
  return int_array(values, {batch.rows, batch.width});
}

// Which tokens are no padding.
mx::array real_tokens(const HostBatch& batch) {
  std::vector<std::uint8_t> real;
  real.reserve(batch.segments.size());
  for (const auto segment : batch.segments) {
    real.push_back(segment >= 0 ? 1 : 0);
  }
  return flag_array(real, {batch.rows, batch.width});
}

void push_targets(const HostBatch& batch, float weight, std::vector<mx::array>& arrays) {
  std::vector<std::int32_t> selected;
  std::vector<std::int32_t> targets;
  for (std::size_t i = 0; i < batch.supervised.size(); ++i) {
    if (batch.supervised[i] != 0) {
      selected.push_back(static_cast<std::int32_t>(i));
      targets.push_back(batch.targets[i]);
    }
  }
  std::vector<float> weights(selected.size(), weight);
  const int count = round_up(std::max(1, static_cast<int>(selected.size())), kSelectedMultiple);
  selected.resize(static_cast<std::size_t>(count), 0);
  targets.resize(static_cast<std::size_t>(count), 0);
  weights.resize(static_cast<std::size_t>(count), 0.0F);
  arrays.push_back(int_array(selected, {count}));
  arrays.push_back(int_array(targets, {count}));
  arrays.push_back(mx::array(weights.data(), {count}, mx::float32));
}

// The host kernels know neither soft caps nor sinks.
bool host_attention_serves(const DecoderSpec& spec) {
  return spec.attention_softcap == 0.0F && !spec.sinks;
}

} // namespace

PackedAttention default_packed_attention(const DecoderSpec& spec, mx::Dtype dtype) {
  if (mx::default_device() != mx::Device::cpu) {
    return PackedAttention::dense_mask;
  }
  return dtype == mx::float32 && host_attention_serves(spec) ? PackedAttention::host
                                                             : PackedAttention::documents;
}

std::string BatchArrays::shape_key() const {
  std::string key = packed ? "packed" : "rows";
  for (const auto& array : arrays) {
    key += shape_text(array.shape());
  }
  return key;
}

BatchArrays to_arrays(const HostBatch& batch, const DecoderSpec& spec, float weight, PackedAttention attention,
                      bool with_lengths) {
  if (batch.empty()) {
    throw DataError("an empty batch reached the model");
  }
  if (attention == PackedAttention::host && !host_attention_serves(spec)) {
    attention = PackedAttention::documents;
  }
  BatchArrays result;
  result.packed = batch.packed;
  result.attention = attention;
  result.has_lengths = with_lengths || depends_on_length(spec);
  result.arrays.push_back(int_array(batch.tokens, {batch.rows, batch.width}));
  result.arrays.push_back(int_array(batch.positions, {batch.rows, batch.width}));
  if (attention == PackedAttention::host) {
    push_places(batch, result.arrays);
  } else if (batch.packed) {
    attention == PackedAttention::documents ? push_documents(batch, result.arrays)
                                            : push_segments(batch, result.arrays);
  }
  if (result.has_lengths) {
    result.arrays.push_back(lengths(batch));
  }
  result.has_real = spec.moe.num_experts > 0;
  if (result.has_real) {
    result.arrays.push_back(real_tokens(batch));
  }
  push_targets(batch, weight, result.arrays);
  return result;
}

DeviceBatch as_device_batch(const BatchArrays& layout, const std::vector<mx::array>& arrays,
                            std::size_t offset) {
  const auto next = [&] { return arrays.at(offset++); };
  DecoderInput input{.tokens_BT = next()};
  input.positions_BT = next();
  if (layout.attention == PackedAttention::host) {
    input.attention.host_documents_M2 = next();
  } else if (layout.packed && layout.attention == PackedAttention::documents) {
    const auto gather = next();
    const auto valid = next();
    const auto scatter = next();
    input.attention.documents = DocumentLayout{gather, valid, scatter, next()};
  } else if (layout.packed) {
    input.attention.segments_BT = next();
  }
  if (layout.has_lengths) {
    input.lengths_BT = next();
  }
  if (layout.has_real) {
    input.real_BT = next();
  }
  const auto selected = next();
  const auto targets = next();
  return {std::move(input), LossTargets{selected, targets, next()}};
}

} // namespace temper
