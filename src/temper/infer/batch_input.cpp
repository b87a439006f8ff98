#include "temper/infer/batch_input.h"

#include <algorithm>
#include <bit>

#include "temper/base/error.h"
#include "temper/nn/gpu_attention.h"

namespace temper {
namespace {

constexpr int kLengthMultiple = 32;
constexpr int kSelectedMultiple = 64;

// A GPU's arrays of one size are made of another's freed memory, and what the host writes of what it can read:
// so far beyond what a batch takes, no other array has its size, and nothing is moved between them.
constexpr std::size_t kSpareWords = std::size_t{3} << 18;

int round_up(int value, int multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

mx::array int_array(const std::vector<std::int32_t>& values) {
  return mx::array(values.data(), {static_cast<int>(values.size())}, mx::int32);
}

// A batch's arrays as they are filled: one after the other, as 32-bit words.
struct Words {
  std::vector<std::int32_t> values;
  std::vector<BatchArrays::Part> parts;

  void add(const std::vector<std::int32_t>& more, mx::Shape shape) {
    parts.push_back({std::move(shape), mx::int32});
    values.insert(values.end(), more.begin(), more.end());
  }
  void add_flags(const std::vector<std::uint8_t>& more, mx::Shape shape) {
    parts.push_back({std::move(shape), mx::bool_});
    values.insert(values.end(), more.begin(), more.end());
  }
  void add_floats(const std::vector<float>& more, mx::Shape shape) {
    parts.push_back({std::move(shape), mx::float32});
    for (const float value : more) {
      values.push_back(std::bit_cast<std::int32_t>(value));
    }
  }
};

void push_segments(const HostBatch& batch, Words& words) {
  words.add(batch.segments, {batch.rows, batch.width});
}

// Where each document stands among the batch's tokens.
void push_places(const HostBatch& batch, Words& words) {
  std::vector<std::int32_t> places;
  for (const auto& document : batch.documents) {
    places.push_back(document.row * batch.width + document.start);
    places.push_back(document.length);
  }
  words.add(places, {static_cast<int>(batch.documents.size()), 2});
}

// Of each token the place of its document's first one, then the place after its last. Padding is by itself.
void push_spans(const HostBatch& batch, Words& words) {
  const auto num_tokens = batch.segments.size();
  std::vector<std::int32_t> spans(2 * num_tokens);
  for (std::size_t i = 0; i < num_tokens; ++i) {
    spans[i] = static_cast<std::int32_t>(i);
    spans[num_tokens + i] = spans[i] + 1;
  }
  for (const auto& document : batch.documents) {
    const int first = document.row * batch.width + document.start;
    const auto begin = static_cast<std::ptrdiff_t>(first);
    std::fill_n(spans.begin() + begin, document.length, first);
    std::fill_n(spans.begin() + static_cast<std::ptrdiff_t>(num_tokens) + begin, document.length,
                first + document.length);
  }
  words.add(spans, {2, static_cast<int>(num_tokens)});
}

// Each document's tokens as a row, and the way back.
void push_documents(const HostBatch& batch, Words& words) {
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
  words.add(gather, {num_documents, length});
  words.add_flags(valid, {num_documents, length});
  words.add(scatter, {static_cast<int>(num_tokens)});
  words.add_flags(real, {static_cast<int>(num_tokens)});
}

void push_layout(const HostBatch& batch, PackedAttention attention, Words& words) {
  switch (attention) {
    case PackedAttention::dense_mask:
      return push_segments(batch, words);
    case PackedAttention::documents:
      return push_documents(batch, words);
    case PackedAttention::host:
      return push_places(batch, words);
    case PackedAttention::spans:
      return push_spans(batch, words);
  }
}

// The length of the document that each token belongs to; 1 for padding.
void push_lengths(const HostBatch& batch, Words& words) {
  std::vector<std::int32_t> values(batch.segments.size(), 1);
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (batch.segments[i] >= 0) {
      values[i] = batch.documents[static_cast<std::size_t>(batch.segments[i])].length;
    }
  }
  words.add(values, {batch.rows, batch.width});
}

// Which tokens are no padding.
void push_real_tokens(const HostBatch& batch, Words& words) {
  std::vector<std::uint8_t> real;
  real.reserve(batch.segments.size());
  for (const auto segment : batch.segments) {
    real.push_back(segment >= 0 ? 1 : 0);
  }
  words.add_flags(real, {batch.rows, batch.width});
}

// Room for `selected` of a batch's tokens, in few sizes. On a GPU, where every size is another compiled step,
// these are quarters of the batch: what they add costs less than the head does for as many tokens.
int selected_places(int selected, int num_tokens) {
  const bool on_gpu = mx::default_device() == mx::Device::gpu;
  return round_up(selected,
                  on_gpu ? round_up(std::max(num_tokens / 4, 1), kSelectedMultiple) : kSelectedMultiple);
}

void push_targets(const HostBatch& batch, float weight, Words& words) {
  std::vector<std::int32_t> selected;
  std::vector<std::int32_t> targets;
  for (std::size_t i = 0; i < batch.supervised.size(); ++i) {
    if (batch.supervised[i] != 0) {
      selected.push_back(static_cast<std::int32_t>(i));
      targets.push_back(batch.targets[i]);
    }
  }
  std::vector<float> weights(selected.size(), weight);
  const int count = selected_places(std::max(1, static_cast<int>(selected.size())), batch.rows * batch.width);
  selected.resize(static_cast<std::size_t>(count), 0);
  targets.resize(static_cast<std::size_t>(count), 0);
  weights.resize(static_cast<std::size_t>(count), 0.0F);
  words.add(selected, {count});
  words.add(targets, {count});
  words.add_floats(weights, {count});
}

// The host kernels know neither soft caps nor sinks.
bool host_attention_serves(const DecoderSpec& spec) {
  return spec.attention_softcap == 0.0F && !spec.sinks;
}

} // namespace

PackedAttention default_packed_attention(const DecoderSpec& spec, mx::Dtype dtype) {
  if (mx::default_device() != mx::Device::cpu) {
    return gpu::attention_serves(dtype, spec.head_dim) && !spec.sinks ? PackedAttention::spans
                                                                      : PackedAttention::dense_mask;
  }
  return dtype == mx::float32 && host_attention_serves(spec) ? PackedAttention::host
                                                             : PackedAttention::documents;
}

std::string BatchArrays::shape_key() const {
  std::string key = packed ? "packed" : "rows";
  for (const auto& part : parts) {
    key += shape_text(part.shape);
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
  Words words;
  words.add(batch.tokens, {batch.rows, batch.width});
  words.add(batch.positions, {batch.rows, batch.width});
  if (attention == PackedAttention::host || batch.packed) {
    push_layout(batch, attention, words);
  }
  if (result.has_lengths) {
    push_lengths(batch, words);
  }
  result.has_real = spec.moe.num_experts > 0;
  if (result.has_real) {
    push_real_tokens(batch, words);
  }
  push_targets(batch, weight, words);
  const auto count = words.values.size() + (mx::default_device() == mx::Device::gpu ? kSpareWords : 0);
  words.values.resize(count, 0);
  result.parts = std::move(words.parts);
  result.words = int_array(words.values);
  return result;
}

DeviceBatch as_device_batch(const BatchArrays& layout, const mx::array& words) {
  std::size_t part = 0;
  int at = 0;
  const auto next = [&] {
    const auto& [shape, dtype] = layout.parts.at(part++);
    const int begin = at;
    for (int size = 1; const int extent : shape) {
      size *= extent;
      at = begin + size;
    }
    const auto own = mx::reshape(mx::slice(words, {begin}, {at}), shape);
    if (dtype == mx::bool_) {
      return mx::not_equal(own, mx::array(0));
    }
    return dtype == mx::float32 ? mx::view(own, mx::float32) : own;
  };
  DecoderInput input{.tokens_BT = next()};
  input.positions_BT = next();
  if (layout.attention == PackedAttention::host) {
    input.attention.host_documents_M2 = next();
  } else if (layout.packed && layout.attention == PackedAttention::documents) {
    const auto gather = next();
    const auto valid = next();
    const auto scatter = next();
    input.attention.documents = DocumentLayout{gather, valid, scatter, next()};
  } else if (layout.packed && layout.attention == PackedAttention::spans) {
    input.attention.spans_2N = next();
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
