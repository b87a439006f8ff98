#include "temper/quant/ggml.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>
#include <ggml_quants.h>

#include "temper/base/error.h"
#include "temper/base/parallel.h"
#include "temper/base/text.h"

namespace temper {
namespace {

constexpr std::size_t kWeightsAPiece = 1 << 16;

const TemperGgmlType& entry(const GgmlFormat& type) {
  const TemperGgmlType* const end = temper_ggml_types + temper_ggml_num_types;
  return *std::find_if(temper_ggml_types, end, [&](const TemperGgmlType& e) { return e.id == type.id; });
}

void check_finite(std::span<const float> weights, std::int64_t in_features, const std::string& name) {
  const auto bad = std::find_if(weights.begin(), weights.end(), [](float w) { return !std::isfinite(w); });
  if (bad != weights.end()) {
    const auto at = bad - weights.begin();
    throw ModelError(fmt::format("{}: weight [{}, {}] is {}, which has no place in a quantized block", name,
                                 at / in_features, at % in_features, *bad));
  }
}

} // namespace

std::size_t GgmlFormat::row_bytes(std::int64_t in_features) const {
  return static_cast<std::size_t>(in_features / block_weights) * block_bytes;
}

const std::vector<GgmlFormat>& ggml_formats() {
  static const std::vector<GgmlFormat> types = [] {
    std::vector<GgmlFormat> result;
    for (std::size_t i = 0; i < temper_ggml_num_types; ++i) {
      const TemperGgmlType& e = temper_ggml_types[i];
      result.push_back({e.name, e.id, e.block_weights, e.block_bytes, e.quantize != nullptr});
    }
    return result;
  }();
  return types;
}

const GgmlFormat* find_ggml_format(std::uint32_t id) {
  const auto& types = ggml_formats();
  const auto found = std::find_if(types.begin(), types.end(), [id](const GgmlFormat& t) { return t.id == id; });
  return found == types.end() ? nullptr : &*found;
}

const GgmlFormat& find_ggml_format(std::string_view name) {
  const auto& types = ggml_formats();
  const auto found = std::find_if(types.begin(), types.end(),
                                  [&](const GgmlFormat& t) { return lower(t.name) == lower(name); });
  if (found == types.end()) {
    std::vector<std::string> names;
    std::transform(types.begin(), types.end(), std::back_inserter(names),
                   [](const GgmlFormat& t) { return t.name; });
    throw ConfigError(fmt::format("no GGUF type '{}': there are {}", name, fmt::join(names, ", ")));
  }
  return *found;
}

std::vector<std::byte> ggml_quantize(const GgmlFormat& type, std::span<const float> weights,
                                     std::int64_t in_features, const std::string& name) {
  const auto columns = static_cast<std::size_t>(in_features);
  if (in_features <= 0 || in_features % type.block_weights != 0 || weights.size() % columns != 0) {
    throw ModelError(fmt::format("{}: rows of {} weights are not whole blocks of {}, as {} wants", name,
                                 in_features, type.block_weights, type.name));
  }
  if (!type.can_quantize) {
    throw ModelError(fmt::format("{}: {} is only read here, not written", name, type.name));
  }
  if (type.block_weights > 1) {
    check_finite(weights, in_features, name);
  }
  const std::size_t num_rows = weights.size() / columns;
  const std::size_t row_bytes = type.row_bytes(in_features);
  std::vector<std::byte> result(num_rows * row_bytes);
  const auto quantize_rows = entry(type).quantize;
  parallel_for(num_rows, std::max<std::size_t>(1, kWeightsAPiece / columns),
               [&](std::size_t begin, std::size_t end) {
                 quantize_rows(weights.data() + begin * columns, result.data() + begin * row_bytes,
                               static_cast<std::int64_t>(end - begin), in_features, nullptr);
               });
  return result;
}

void ggml_dequantize(const GgmlFormat& type, std::span<const std::byte> bytes, std::span<float> out,
                     const std::string& name) {
  const std::size_t num_blocks = bytes.size() / type.block_bytes;
  const auto block_weights = static_cast<std::size_t>(type.block_weights);
  if (bytes.size() % type.block_bytes != 0 || out.size() != num_blocks * block_weights) {
    throw ModelError(
        fmt::format("{}: {} bytes of {} are not {} weights", name, bytes.size(), type.name, out.size()));
  }
  const auto unpack = entry(type).dequantize;
  parallel_for(num_blocks, kWeightsAPiece / block_weights, [&](std::size_t begin, std::size_t end) {
    unpack(bytes.data() + begin * type.block_bytes, out.data() + begin * block_weights,
           static_cast<std::int64_t>((end - begin) * block_weights));
  });
}

} // namespace temper
