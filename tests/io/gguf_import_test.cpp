#include "temper/io/gguf_import.h"

#include <optional>

#include <doctest/doctest.h>
#include <unistd.h>

#include "models/families.h"
#include "models/mean_loss.h"
#include "temper/base/error.h"
#include "temper/io/gguf.h"
#include "temper/io/gguf_arch.h"
#include "temper/nn/rope.h"
#include "temper/quant/ggml.h"
#include "temper/text/tokenizer.h"
#include "train/support.h"

using namespace temper;
using namespace temper::test;
namespace fs = std::filesystem;

namespace {

std::vector<float> values_of(const mx::array& array) {
  auto copy = mx::contiguous(mx::astype(array, mx::float32));
  mx::eval(copy);
  return {copy.data<float>(), copy.data<float>() + copy.size()};
}

GgufOutput output(const std::string& name, const std::vector<float>& weights, std::vector<std::int64_t> dims,
                  const std::string& format) {
  const bool fits = dims.size() > 1 && dims.front() % find_ggml_format(format).block_weights == 0;
  const auto& used = find_ggml_format(fits ? format : "f32");
  const auto bytes = ggml_quantize(used, weights, dims.front(), name);
  return {name, std::move(dims), static_cast<GgufType>(used.id),
          [bytes](const GgufSink& sink) { sink(bytes); }};
}

GgufMetadata words(int count) {
  std::vector<std::string> tokens{"<unk>", "<s>", "</s>"};
  std::vector<std::int32_t> kinds{2, 3, 3};
  std::vector<float> scores{0.0F, 0.0F, 0.0F};
  for (int i = 3; i < count; ++i) {
    tokens.push_back("w" + std::to_string(i));
    kinds.push_back(1);
    scores.push_back(static_cast<float>(-i));
  }
  return {{"tokenizer.ggml.model", std::string("llama")},    {"tokenizer.ggml.tokens", GgufArray(tokens)},
          {"tokenizer.ggml.token_type", GgufArray(kinds)},   {"tokenizer.ggml.scores", GgufArray(scores)},
          {"tokenizer.ggml.bos_token_id", std::uint32_t{1}}, {"tokenizer.ggml.eos_token_id", std::uint32_t{2}}};
}

// The model's tensors as the table of gguf_arch.h has them.
struct Written {
  GgufMetadata metadata;
  std::vector<GgufOutput> tensors;
};

Written written(const Model& model, const std::string& format) {
  const auto& arch = find_gguf_arch(model.spec, "the fixture");
  Written file{{{"general.architecture", std::string(arch.name)}}, {}};
  for (auto& part : {gguf_hparams(model.spec, arch), words(model.spec.vocab_size)}) {
    file.metadata.insert(file.metadata.end(), part.begin(), part.end());
  }
  for (const auto& [ours, theirs] : gguf_tensor_names(model.spec, arch)) {
    const auto tensor = to_gguf_tensor(model.spec, arch, ours, model.params.at(ours));
    const auto& shape = tensor.shape();
    file.tensors.push_back(output(theirs, values_of(tensor), {shape.rbegin(), shape.rend()}, format));
  }
  for (const auto& [name, factors] : rope_tensors(model.spec)) {
    file.tensors.push_back(output(name, factors, {static_cast<std::int64_t>(factors.size())}, "f32"));
  }
  return file;
}

fs::path write(const Written& file, const fs::path& path) {
  write_gguf(path, file.metadata, file.tensors);
  return path;
}

// The fixtures that llama.cpp has an architecture for.
std::vector<fs::path> exportable() {
  std::vector<fs::path> found;
  for (const auto& name : family_names()) {
    const auto delta = load_spec(kFamilyFixtures / name).delta;
    if (delta.key_dim == delta.value_dim) { // as llama.cpp has it
      found.push_back(kFamilyFixtures / name);
    }
  }
  for (const char* name : {"llama2", "llama32", "linear", "yarn", "mistral", "biases"}) {
    found.push_back(fs::path(TEMPER_TEST_DATA) / "llama" / name);
  }
  return found;
}

mx::array tokens_of(int count) {
  const auto tokens = family_tokens(count, 7);
  return mx::array(tokens.begin(), mx::Shape{1, count}, mx::int32);
}

// As llama.cpp computes it: it knows one limit.
Model fixture(const fs::path& folder, const std::string& dtype = "float32") {
  auto model = load_model(folder, dtype, PackedWeights::unpack);
  model.spec.activation_limit = 7.0F;
  return model;
}

// None: llama.cpp's architecture can't run the model.
std::optional<Written> try_written(const Model& model, const std::string& format) {
  try {
    return written(model, format);
  } catch (const ModelError&) {
    return std::nullopt;
  }
}

template <class T>
void set(Written& file, const std::string& key, T value) {
  for (auto& [name, old] : file.metadata) {
    if (name == key) {
      old = GgufValue(value);
      return;
    }
  }
  file.metadata.emplace_back(key, GgufValue(value));
}

std::string refusal(const Written& file, const fs::path& path) {
  try {
    load_model(gguf_folder(write(file, path)));
  } catch (const ModelError& error) {
    return std::string(error.what()).substr(path.string().size());
  }
  return "";
}

} // namespace

TEST_CASE("a GGUF file gives the logits of the folder that it came from") {
  const TempFolder scratch;
  int tested = 0;
  for (const auto& folder : exportable()) {
    CAPTURE(folder.string());
    const auto model = fixture(folder);
    if (const auto file = try_written(model, "f32")) {
      ++tested;
      const auto path = write(*file, scratch.path() / (folder.filename().string() + ".gguf"));
      const auto imported = load_model(gguf_folder(path), "float32");
      CHECK(imported.packed.empty());
      const auto tokens = tokens_of(30); // more than the windows
      CHECK(max_difference(logits(imported, tokens), logits(model, tokens)) < 1e-5F);
    }
  }
  CHECK(tested >= 24);
}

TEST_CASE("Qwen3.5: any choice of layers that attend; a layer that predicts one more token is left out") {
  const TempFolder scratch;
  auto model = fixture(fs::path(TEMPER_TEST_DATA) / "families" / "qwen3_5_text");
  auto file = *try_written(model, "f32");
  int count = 0;
  std::erase_if(file.metadata, [](const auto& pair) { return pair.first == "qwen35.full_attention_interval"; });
  for (const auto& layers : {GgufArray(std::vector<bool>{true, true, false, false}),
                             GgufArray(std::vector<std::int32_t>{1, 1, 0, 0})}) {
    set(file, "qwen35.attention.recurrent_layers", layers);
    set(file, "qwen35.block_count", std::uint32_t{4});
    set(file, "qwen35.nextn_predict_layers", std::uint32_t{1});
    file.tensors.push_back(output("blk.3.nextn.enorm.weight", {1.0F, 2.0F}, {2}, "f32"));
    const auto path = scratch.path() / (std::to_string(++count) + ".gguf");
    const auto imported = load_model(gguf_folder(write(file, path)), "float32");
    CHECK(max_difference(logits(imported, tokens_of(20)), logits(model, tokens_of(20))) < 1e-5F);
    file.tensors.pop_back();
  }
  set(file, "qwen35.attention.recurrent_layers", GgufArray(std::vector<bool>{true}));
  CHECK(refusal(file, scratch.path() / "few.gguf").ends_with("do not fit the layers"));

  std::swap(model.spec.layers[0].mixer, model.spec.layers[2].mixer);
  const auto hparams = gguf_hparams(model.spec, find_gguf_arch(model.spec, "it"));
  CHECK(std::any_of(hparams.begin(), hparams.end(),
                    [](const auto& pair) { return pair.first == "qwen35.attention.recurrent_layers"; }));
}

TEST_CASE("Qwen3.5 as llama.cpp cannot run it is refused") {
  auto spec = load_spec(kFamilyFixtures / "qwen3_5");
  const auto words = message_of<ModelError>([&] { find_gguf_arch(spec, "it"); });
  CHECK(words.find("keys and values have heads of different sizes") != std::string::npos);
  spec.delta.value_dim = spec.delta.key_dim;
  spec.gated_attention = false;
  CHECK(message_of<ModelError>([&] { find_gguf_arch(spec, "it"); }).find("without a gate") !=
        std::string::npos);
}

TEST_CASE("half precision comes back bit by bit") {
  const TempFolder scratch;
  for (const std::string dtype : {"float16", "bfloat16"}) {
    for (const char* name : {"llama/llama32", "families/qwen2", "families/lfm2"}) {
      CAPTURE(name);
      const auto model = fixture(fs::path(TEMPER_TEST_DATA) / name, dtype);
      const auto file = write(*try_written(model, dtype == "float16" ? "f16" : "bf16"),
                              scratch.path() / (dtype + fs::path(name).filename().string() + ".gguf"));
      const auto imported = open_model(gguf_folder(file));
      CHECK(imported.dtype == model.dtype);
      for (const auto& [tensor, array] : model.params) {
        CAPTURE(tensor);
        CHECK(same_bits(mx::astype(imported.params.at(tensor), model.dtype), array));
      }
    }
  }
}

TEST_CASE("quantized files stay packed, and unpack to what ggml says") {
  const TempFolder scratch;
  for (const std::string format : {"q8_0", "q4_0", "q4_1"}) {
    for (const char* name : {"families/olmo2", "families/qwen3", "families/gemma2", "families/mixtral"}) {
      CAPTURE(name);
      const auto model = fixture(fs::path(TEMPER_TEST_DATA) / name);
      const auto file = *try_written(model, format);
      const auto path = write(file, scratch.path() / (format + fs::path(name).filename().string() + ".gguf"));
      const auto packed = load_model(gguf_folder(path), "float32", PackedWeights::keep);
      const auto dense = load_model(gguf_folder(path), "float32", PackedWeights::unpack);
      CHECK(packed.packed.size() > 7U);
      CHECK(packed.packed.begin()->second == QuantFormat{"affine", format == "q8_0" ? 8 : 4, 32});
      CHECK(num_bytes(packed.params) < num_bytes(dense.params) / 2);
      CHECK(max_difference(logits(packed, tokens_of(6)), logits(dense, tokens_of(6))) < 1e-4F);
      const auto down = dense.spec.names.mlp + "." + dense.spec.names.down;
      for (const auto& [tensor, array] : dense.params) {
        const bool in_order = tensor.ends_with("v_proj.weight") || tensor.ends_with(down + ".weight");
        if (in_order && array.shape(-1) % 32 == 0) {
          const auto& type = find_ggml_format(format);
          const auto wanted = model.params.at(tensor);
          std::vector<float> out(wanted.size());
          ggml_dequantize(type, ggml_quantize(type, values_of(wanted), wanted.shape(-1), tensor), out, tensor);
          CHECK(values_of(array) == out);
        }
      }
    }
  }
}

TEST_CASE("what a GGUF file lacks, or says wrongly, is named") {
  const TempFolder scratch;
  int count = 0;
  const auto path = [&] { return scratch.path() / (std::to_string(count++) + ".gguf"); };
  const auto good = *try_written(fixture(fs::path(TEMPER_TEST_DATA) / "llama" / "llama2"), "f32");
  CHECK(refusal(good, path()) == "");

  auto file = good;
  set(file, "general.architecture", std::string("mamba"));
  CHECK(refusal(file, path()).starts_with(": models of architecture mamba are not supported; supported are "));
  file = good;
  file.metadata.erase(file.metadata.begin());
  CHECK(refusal(file, path()) == ": general.architecture is missing: it is no model");
  file = good;
  std::erase_if(file.metadata, [](const auto& pair) { return pair.first == "llama.block_count"; });
  CHECK(refusal(file, path()) == ": metadata key llama.block_count is missing");
  file = good;
  set(file, "llama.block_count", std::string("two"));
  CHECK(refusal(file, path()).starts_with(": metadata key llama.block_count is not "));
  file = good;
  set(file, "llama.block_count", std::uint32_t{4'000'000'000});
  CHECK(refusal(file, path()) != "");
  file = good;
  set(file, "llama.block_count", std::uint32_t{7});
  CHECK(refusal(file, path()).ends_with(" is missing"));
  file = good;
  set(file, "llama.embedding_length", std::uint32_t{64});
  CHECK(refusal(file, path()) != "");
  file = good;
  std::erase_if(file.tensors, [](const auto& tensor) { return tensor.name == "blk.1.ffn_up.weight"; });
  CHECK(refusal(file, path()) == ": tensor blk.1.ffn_up.weight is missing");
  file = good;
  file.tensors.push_back(output("blk.1.ssm_a", {1.0F, 2.0F}, {2}, "f32"));
  CHECK(refusal(file, path()).starts_with(": tensor blk.1.ssm_a has no place in this model"));
  file = good;
  set(file, "tokenizer.ggml.model", std::string("rwkv"));
  CHECK(refusal(file, path()).starts_with(": tokenizer.ggml.model is 'rwkv'; supported are"));
  file = good;
  set(file, "tokenizer.ggml.model", std::string("gpt2"));
  set(file, "tokenizer.ggml.merges", GgufArray(std::vector<std::string>{"w 3"}));
  set(file, "tokenizer.ggml.pre", std::string("of-tomorrow"));
  CHECK(refusal(file, path()).starts_with(": tokenizer.ggml.pre is of-tomorrow, which is not known here"));
  file = good;
  set(file, "tokenizer.ggml.bos_token_id", std::uint32_t{1'000'000});
  CHECK(refusal(file, path()) ==
        ": metadata key tokenizer.ggml.bos_token_id is 1000000, beyond the vocabulary");
  file = good;
  set(file, "tokenizer.ggml.scores", GgufArray(std::vector<float>{1.0F}));
  CHECK(refusal(file, path()) == ": tokenizer.ggml.tokens, token_type and scores differ in length");
}
