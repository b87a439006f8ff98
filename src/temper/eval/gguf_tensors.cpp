#include "temper/eval/gguf_tensors.h"

#include <algorithm>
#include <memory>
#include <optional>

#include "temper/base/error.h"
#include "temper/models/adapter_params.h"
#include "temper/models/merge_adapter.h"
#include "temper/models/tensors.h"
#include "temper/nn/linear.h"
#include "temper/quant/ggml.h"

namespace temper {
namespace {

constexpr std::int64_t kElementsAPiece = std::int64_t{1} << 24;

// Dense parameters: as they are stored, but fp32 where they were packed or an adapter will change them.
Params dense_params(const Model& base, const Adapter* adapter) {
  Params params;
  const auto touched = [&](const std::string& name) {
    const auto layer = name.substr(0, name.rfind('.'));
    return adapter != nullptr &&
           (adapter->params.contains(layer + ".lora_a") || adapter->params.contains(name));
  };
  for (const auto& [name, array] : base.params) {
    if (!is_packed_part(base, name)) {
      params.emplace(name, touched(name) ? mx::astype(array, mx::float32) : array);
    }
  }
  for (const auto& layer : matrix_layers(base.spec)) {
    if (base.packed.contains(layer.name)) {
      params.emplace(layer.name + ".weight",
                     dense_weight(ParamView(base.params), layer.name, layer.in_features, mx::float32));
    }
  }
  return params;
}

std::span<const std::byte> bytes_of(const mx::array& array) {
  return {reinterpret_cast<const std::byte*>(array.data<char>()), array.nbytes()};
}

mx::array evaluated(const mx::array& array) {
  auto whole = mx::contiguous(array);
  whole.eval();
  return whole;
}

void check_range(const std::string& name, const mx::array& before, const mx::array& after) {
  const auto lost = mx::logical_and(mx::isfinite(before), mx::logical_not(mx::isfinite(after)));
  if (mx::any(lost).item<bool>()) {
    throw ModelError(name + ": some weights are too large for f16; use --type bf16 or f32");
  }
}

void write_rows(const std::string& name, GgufType type, const mx::array& rows, const GgufSink& sink) {
  if (type == GgufType::f32) {
    sink(bytes_of(evaluated(mx::astype(rows, mx::float32))));
  } else if (type == GgufType::bf16) {
    sink(bytes_of(evaluated(mx::astype(rows, mx::bfloat16))));
  } else if (type == GgufType::f16) {
    const auto half = evaluated(mx::astype(rows, mx::float16));
    check_range(name, rows, half);
    sink(bytes_of(half));
  } else {
    const auto floats = evaluated(mx::astype(rows, mx::float32));
    const auto& format = *find_ggml_format(static_cast<std::uint32_t>(type));
    const std::span<const float> weights(floats.data<float>(), floats.size());
    sink(ggml_quantize(format, weights, floats.shape(-1), name));
  }
}

void write_piece(const GgufPiece& piece, GgufType type, const GgufSink& sink) {
  const int columns = piece.array.ndim() == 0 ? 1 : piece.array.shape(-1);
  const auto rows = evaluated(mx::reshape(piece.array, {-1, columns}));
  const auto step = static_cast<int>(std::max<std::int64_t>(1, kElementsAPiece / columns));
  for (int begin = 0; begin < rows.shape(0); begin += step) {
    const int end = std::min(rows.shape(0), begin + step);
    write_rows(piece.name, type, mx::slice(rows, {begin, 0}, {end, columns}), sink);
  }
}

[[noreturn]] void refuse(const std::string& origin, const std::string& what) {
  throw ModelError(origin + ": " + what +
                   ", for which adapters in GGUF have no place: leave out --adapter-only, and it is merged");
}

// Factors of a layer as llama.cpp multiplies with them: A [R, I], B [O, R], of experts [X, R, I] and [X, O, R].
std::pair<mx::array, mx::array> factors(const Adapter& adapter, const std::string& layer) {
  const auto& a = adapter.params.at(layer + ".lora_a");
  const auto& b = adapter.params.at(layer + ".lora_b");
  return a.ndim() == 2 ? std::pair{mx::transpose(a), mx::transpose(b)} : std::pair{a, b};
}

void check_expressible(const DecoderSpec& spec, const Adapter& adapter, const std::string& origin) {
  if (adapter.fine_tune_type != "lora") {
    refuse(origin, "an adapter of type " + adapter.fine_tune_type);
  }
  for (const auto& [name, array] : adapter.params) {
    if (!is_adapter_tensor(name)) {
      refuse(origin, "it holds " + name + " whole");
    }
    if (name.ends_with(".m")) {
      refuse(origin, "it holds DoRA's magnitudes");
    }
    if (name.starts_with(spec.prefix + "embed_tokens.")) {
      refuse(origin, "it changes the embedding");
    }
  }
}

} // namespace

std::vector<std::int64_t> ggml_dims(const mx::array& array) {
  std::vector<std::int64_t> dims(array.shape().rbegin(), array.shape().rend());
  return dims;
}

std::vector<GgufPiece> model_pieces(Model& base, const GgufArch& arch, const Adapter* adapter) {
  const auto& spec = base.spec;
  auto params = dense_params(base, adapter);
  if (adapter != nullptr) {
    params = merge_adapter(spec, std::move(params), adapter->lora, adapter->params);
  }
  base.params.clear();
  std::vector<GgufPiece> pieces;
  const bool doubled = spec.tied_head && arch.needs_head;
  for (const auto& [ours, theirs] : gguf_tensor_names(spec, arch)) {
    const auto node = params.extract(ours);
    const auto array = to_gguf_tensor(spec, arch, ours, node.mapped());
    pieces.push_back({theirs, array});
    if (doubled && theirs == "token_embd.weight") {
      pieces.push_back({"output.weight", array});
    }
  }
  for (const auto& [name, values] : rope_tensors(spec)) {
    const auto count = static_cast<int>(values.size());
    pieces.push_back({name, mx::array(values.begin(), {count}, mx::float32)});
  }
  return pieces;
}

std::pair<std::vector<GgufPiece>, float> adapter_pieces(const DecoderSpec& spec, const GgufArch& arch,
                                                        const Adapter& adapter, const std::string& origin) {
  check_expressible(spec, adapter, origin);
  const float alpha = adapter.lora.scale * static_cast<float>(adapter.lora.rank);
  std::vector<GgufPiece> pieces;
  for (const auto& [ours, theirs] : gguf_tensor_names(spec, arch)) {
    const auto layer = ours.substr(0, ours.rfind('.'));
    const bool is_vector = ours.ends_with("shared_expert_gate.weight"); // to llama.cpp
    if (!ours.ends_with(".weight") || is_vector || !adapter.params.contains(layer + ".lora_a")) {
      continue;
    }
    auto [a, b] = factors(adapter, layer);
    const auto heads = value_heads(spec, ours);
    auto& ordered =
        heads && heads->axis < 0 ? a : b; // that side of the layer whose features are in another order
    ordered = to_gguf_tensor(spec, arch, ours, ordered);
    // llama.cpp scales by alpha / rank: what differs in a layer goes into its B.
    const auto own = adapter.lora.of(layer);
    const float ratio = own.scale * static_cast<float>(a.shape(-2)) / alpha;
    if (ratio != 1.0F) {
      b = b * mx::array(ratio);
    }
    pieces.push_back({theirs + ".lora_a", a});
    pieces.push_back({theirs + ".lora_b", b});
  }
  if (pieces.size() != adapter.params.size() || pieces.empty()) {
    refuse(origin, "it changes layers that this architecture has under no name");
  }
  return {std::move(pieces), alpha};
}

GgufOutput gguf_output(GgufPiece piece, GgufType type, std::function<void()> progress) {
  const auto name = piece.name;
  auto dims = ggml_dims(piece.array);
  const auto held = std::make_shared<std::optional<GgufPiece>>(std::move(piece));
  return {name, std::move(dims), type, [held, type, progress = std::move(progress)](const GgufSink& sink) {
            if (progress) {
              progress();
            }
            const auto one = std::move(held->value());
            held->reset();
            write_piece(one, type, sink);
          }};
}

} // namespace temper
