#include "temper/io/gguf_tensors.h"

#include <unistd.h>
#include <algorithm>
#include <random>

#include <doctest/doctest.h>

#include "temper/base/error.h"
#include "temper/quant/ggml.h"
#include "temper/quant/packed.h"

using namespace temper;
namespace fs = std::filesystem;

namespace {

constexpr int kRows = 6;
constexpr int kColumns = 256;

struct Scratch {
  fs::path path = fs::temp_directory_path() / ("temper-gguf-tensors-" + std::to_string(::getpid()) + ".gguf");
  ~Scratch() {
    fs::remove(path);
  }
};

std::vector<float> random_weights() {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0.0F, 0.05F);
  std::vector<float> weights(std::size_t{kRows} * kColumns);
  std::generate(weights.begin(), weights.end(), [&] { return normal(random); });
  return weights;
}

GgufOutput output(const std::string& name, const std::string& format, const std::vector<float>& weights,
                  std::vector<std::int64_t> dims = {kColumns, kRows}) {
  const auto bytes = ggml_quantize(find_ggml_format(format), weights, dims.front(), name);
  return {name, std::move(dims), static_cast<GgufType>(find_ggml_format(format).id),
          [bytes](const GgufSink& sink) { sink(bytes); }};
}

std::vector<float> unpacked_by_ggml(const std::string& format, const std::vector<float>& weights) {
  const auto& type = find_ggml_format(format);
  std::vector<float> out(weights.size());
  ggml_dequantize(type, ggml_quantize(type, weights, kColumns, "w"), out, "w");
  return out;
}

std::vector<float> values_of(mx::array array) {
  array = mx::contiguous(mx::astype(array, mx::float32));
  mx::eval(array);
  return {array.data<float>(), array.data<float>() + array.size()};
}

} // namespace

TEST_CASE("each format of a GGUF file gives what ggml unpacks, bit for bit") {
  const Scratch scratch;
  const auto weights = random_weights();
  for (const std::string format : {"f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_K", "q5_K",
                                   "q6_K", "q2_K", "iq4_nl", "mxfp4"}) {
    CAPTURE(format);
    write_gguf(scratch.path, {{"general.architecture", std::string("llama")}},
               {output("blk.0.attn_q.weight", format, weights)});
    const auto params = load_gguf_tensors(read_gguf_header(scratch.path));
    const auto& weight = params.at("blk.0.attn_q.weight");
    const bool packed = format == "q8_0" || format == "q4_0" || format == "q4_1";
    CHECK((weight.dtype() == mx::uint32) == packed);
    CHECK(params.size() == (packed ? 3U : 1U));
    if (!packed) {
      CHECK(weight.shape() == mx::Shape{kRows, kColumns});
      CHECK(values_of(weight) == unpacked_by_ggml(format, weights));
      continue;
    }
    const auto& scales = params.at("blk.0.attn_q.scales");
    const PackedWeight parts{weight, scales, params.at("blk.0.attn_q.biases"),
                             infer_quant_format(weight, scales, true, kColumns, "w")};
    CHECK(parts.format == QuantFormat{"affine", format == "q8_0" ? 8 : 4, 32});
    CHECK(values_of(dequantize(parts, mx::float32)) == unpacked_by_ggml(format, weights));
  }
}

TEST_CASE("experts keep their axis, vectors and biases are never packed") {
  const Scratch scratch;
  const auto weights = random_weights();
  write_gguf(scratch.path, {},
             {output("blk.0.ffn_up_exps.weight", "q4_0", weights, {kColumns / 2, 4, 3}),
              output("output_norm.weight", "q8_0", weights, {kColumns * kRows}),
              output("blk.0.attn_q.bias", "q8_0", weights, {kColumns, kRows})});
  const auto params = load_gguf_tensors(read_gguf_header(scratch.path));
  CHECK(params.at("blk.0.ffn_up_exps.weight").shape() == mx::Shape{3, 4, kColumns / 16});
  CHECK(params.at("blk.0.ffn_up_exps.scales").shape() == mx::Shape{3, 4, kColumns / 64});
  CHECK(params.at("output_norm.weight").dtype() == mx::float32);
  CHECK(params.at("output_norm.weight").shape() == mx::Shape{kColumns * kRows});
  CHECK(params.at("blk.0.attn_q.bias").dtype() == mx::float32);
  CHECK(params.size() == 5);
}

TEST_CASE("a tensor of integers is named") {
  const Scratch scratch;
  const std::vector<std::byte> bytes(16);
  write_gguf(scratch.path, {}, {{"positions", {4}, GgufType::i32, [&](const GgufSink& sink) { sink(bytes); }}});
  CHECK_THROWS_WITH_AS(
      load_gguf_tensors(read_gguf_header(scratch.path)),
      (scratch.path.string() + ": tensor positions holds I32, which are no weights that Temper reads").c_str(),
      ModelError);
}
