#include "temper/io/convert.h"

#include "io/tiny_model.h"
#include "temper/base/error.h"
#include "temper/base/files.h"
#include "temper/nn/linear.h"
#include "temper/quant/quant_config.h"

using namespace temper;
using namespace temper::test;

namespace {

namespace fs = std::filesystem;

const std::string kUp = "model.layers.1.mlp.up_proj";
// A conversion's choice of one format.
QuantChoice choice(const std::string& mode, int bits, int group_size, std::vector<std::string> keep = {}) {
  QuantChoice made;
  made.format = {mode, bits, group_size};
  made.keep = std::move(keep);
  return made;
}

const QuantChoice kFourBits = choice("affine", 4, 32);

// A folder with a model in it, and a place beside it for what becomes of that.
struct Folders {
  TempFolder parent;
  fs::path source = parent.path() / "m";
  fs::path out = parent.path() / "out";
  Model model = tiny_model({{"hidden_size", 64}, {"intermediate_size", 96}, {"torch_dtype", "bfloat16"}});

  Folders() {
    make_directories(source);
    write_model(source, model);
    write_file_atomic(source / "tokenizer.json", "{}");
  }
  ConvertReport convert(const std::optional<QuantChoice>& choice, bool dequantize = false,
                        const std::string& dtype = "auto") const {
    return convert_model({source, out, choice, dequantize, dtype});
  }
  // The names beside the source.
  std::vector<std::string> others() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(parent.path())) {
      if (entry.path() != source) {
        names.push_back(entry.path().filename().string());
      }
    }
    return names;
  }
};

} // namespace

TEST_CASE("a model is packed, and what is not takes the dtype that its config says") {
  const Folders f;
  const auto report = f.convert(kFourBits);
  const auto packed = open_model(f.out);
  CHECK(packed.packed.size() == matrix_layers(f.model.spec).size());
  CHECK(packed.params.at("model.norm.weight").dtype() == mx::bfloat16);
  CHECK(packed.params.at(kUp + ".scales").dtype() == mx::bfloat16);
  const auto weight = mx::astype(f.model.params.at(kUp + ".weight"), mx::bfloat16);
  CHECK(same_bits(dense_weight(ParamView(packed.params), kUp, 64, mx::bfloat16),
                  dequantize(quantize(weight, {"affine", 4, 32}, kUp), mx::bfloat16)));
  CHECK(read_file(f.out / "tokenizer.json") == "{}");
  CHECK(report.parameters == num_elements(f.model.params));
  CHECK(report.bytes_before == num_bytes(f.model.params));
  CHECK(report.bytes_after == num_bytes(packed.params));
  CHECK(report.bits_before() == doctest::Approx(32.0));
  CHECK(report.bits_after() == doctest::Approx(5.0).epsilon(0.05)); // 4 and two 16-bit numbers for 32 weights
  CHECK(packed.config.at("quantization") == report.quantization);
  CHECK(packed.config.at("quantization_config") == report.quantization);
  CHECK(f.others() == std::vector<std::string>{"out"});
}

TEST_CASE("what is packed can be unpacked, packed anew, or left as it is") {
  Folders f;
  f.convert(kFourBits);
  const auto packed = open_model(f.out);
  f.source = f.out;

  f.out = f.parent.path() / "dense";
  f.convert(std::nullopt, true, "float32");
  const auto dense = load_model(f.out, "float32");
  CHECK_FALSE(dense.config.contains("quantization"));
  CHECK(dense.config.at("torch_dtype") == "float32");
  CHECK(same_bits(dense.params.at(kUp + ".weight"),
                  dense_weight(ParamView(packed.params), kUp, 64, mx::float32)));

  f.out = f.parent.path() / "eight";
  f.convert(choice("affine", 8, 32), true);
  CHECK(open_model(f.out).packed.at(kUp) == QuantFormat{"affine", 8, 32});

  f.out = f.parent.path() / "same";
  f.convert(std::nullopt);
  CHECK(same_bits(open_model(f.out).params, packed.params));
  f.out = f.parent.path() / "again";
  CHECK(contains(message_of<ConfigError>([&] { f.convert(kFourBits); }), "every layer is quantized already"));
}

TEST_CASE("layers left out at first are packed later, and the config lists them") {
  Folders f;
  f.convert(choice("affine", 4, 32, {"embed_tokens"}));
  CHECK_FALSE(open_model(f.out).packed.contains("model.embed_tokens"));
  f.source = f.out;
  f.out = f.parent.path() / "more";
  f.convert(choice("mxfp8", 8, 32));
  const auto config = read_quant_config(open_model(f.out).config, "config.json");
  CHECK(config.base == QuantFormat{"affine", 4, 32});
  CHECK(config.layers.size() == 1);
  CHECK(config.layers.at("model.embed_tokens") == QuantFormat{"mxfp8", 8, 32});
}

TEST_CASE("a config that says no dtype leaves the tensors in theirs") {
  Folders f;
  f.model.config.erase("torch_dtype");
  write_model(f.source, f.model);
  f.convert(std::nullopt);
  CHECK(same_bits(open_model(f.out).params, f.model.params));
}

TEST_CASE("a folder that holds something is not written to; an empty one is") {
  const Folders f;
  make_directories(f.out);
  write_file_atomic(f.out / "notes.txt", "mine");
  CHECK(
      contains(message_of<ConfigError>([&] { f.convert(kFourBits); }), f.out.string() + ": is there already"));
  fs::remove(f.out / "notes.txt");
  f.convert(kFourBits);
  CHECK(open_model(f.out).packed.size() > 0);
}

TEST_CASE("a conversion that fails, or is stopped, leaves nothing") {
  const Folders f;
  CHECK_FALSE(message_of<ModelError>([&] { f.convert(choice("affine", 4, 64)); }).empty());
  ConvertOptions options{f.source, f.out, kFourBits};
  int calls = 0;
  options.progress = [&](std::int64_t done, std::int64_t total) {
    CHECK(done < total);
    if (++calls == 5) {
      throw IoError("stopped");
    }
  };
  CHECK(message_of<IoError>([&] { convert_model(options); }) == "stopped");
  CHECK(f.others().empty());
}
