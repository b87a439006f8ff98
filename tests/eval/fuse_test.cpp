// Fusing: what survives, what is refused, what is written.
#include "temper/eval/fuse.h"

#include "base/messages.h"
#include "temper/base/error.h"
#include "temper/infer/model_view.h"
#include "temper/nn/linear.h"
#include "train/support.h"

using namespace temper;
using namespace temper::test;

namespace {

namespace fs = std::filesystem;

const std::string kQuery = "model.layers.0.self_attn.q_proj";
const QuantFormat kPacking{"affine", 4, 32};

// One word a token, "w7" being 7.
void write_words(const fs::path& folder, int count) {
  Json vocab{{"<unk>", 0}};
  for (int i = 1; i < count; ++i) {
    vocab["w" + std::to_string(i)] = i;
  }
  write_json(folder / "tokenizer.json",
             {{"version", "1.0"},
              {"added_tokens", Json::array()},
              {"pre_tokenizer", {{"type", "WhitespaceSplit"}}},
              {"model", {{"type", "WordLevel"}, {"vocab", vocab}, {"unk_token", "<unk>"}}}});
  write_json(folder / "tokenizer_config.json", {{"tokenizer_class", "PreTrainedTokenizerFast"}});
  write_json(folder / "generation_config.json", {{"eos_token_id", 2}});
  write_file_atomic(folder / "chat_template.jinja", "{{ messages[0].content }}");
}

// A folder with a model, an adapter and room for what is fused.
struct Bench {
  TempFolder folder;
  Model model;
  LoraConfig lora{.rank = 4, .scale = 2.0F};
  FuseOptions options;

  explicit Bench(bool packed, const Json& changes = Json::object())
      : model(tiny_model(merged(changes))), options{base(), folder.path() / "adapter", out()} {
    options.texts = {"w5 w9 w120 w77 w3 w250 w14", "w8 w200 w31 w6 w99"};
    fs::create_directories(base());
    fs::create_directories(options.adapter);
    write_words(base(), 300);
    if (packed) {
      pack_all();
    }
    write_model(base(), model);
  }

  fs::path base() const {
    return folder.path() / "base";
  }
  fs::path out() const {
    return folder.path() / "fused";
  }

  static Json merged(const Json& changes) {
    Json all{{"hidden_size", 64}, {"intermediate_size", 96}};
    all.update(changes);
    return all;
  }

  void pack_all() {
    for (const auto& layer : matrix_layers(model.spec)) {
      const auto parts = quantize(model.params.at(layer.name + ".weight"), kPacking, layer.name);
      model.params.at(layer.name + ".weight") = parts.weight;
      model.params.emplace(layer.name + ".scales", parts.scales);
      model.params.emplace(layer.name + ".biases", *parts.biases);
    }
    model.config["quantization"] = {{"group_size", 32}, {"bits", 4}};
  }

  // Factors whose B has entries of about `size`, on every linear layer, or those that `keys` name.
  void write_adapter(float size, const std::vector<std::string>& keys = {}, const Params& more = {}) {
    const auto layers = adaptable_layers(model.spec, -1, keys);
    auto params = init_adapter(lora, layers, 1, lora.dora ? weight_norms(model.params, layers) : Params{});
    for (auto& [name, array] : params) {
      if (name.ends_with(".lora_b")) {
        array = size * randn(array.shape(), name);
      } else if (name.ends_with(".m")) {
        array = array * (1.0F + 0.2F * randn(array.shape(), name));
      }
    }
    for (const auto& [name, array] : more) {
      params.insert_or_assign(name, array);
    }
    mx::eval(values(params));
    save_adapter_params(options.adapter, "adapters.safetensors", params, lora);
    save_adapter_config(options.adapter, lora.dora ? "dora" : "lora", -1, lora, keys, Json::object());
  }

  bool nothing_left() const {
    for (const auto& entry : fs::directory_iterator(folder.path())) {
      const auto name = entry.path().filename();
      if (name != "base" && name != "adapter") {
        return false;
      }
    }
    return true;
  }
};

} // namespace

TEST_CASE("a fuse of a 4-bit base that is packed again loses a small adapter, and is refused") {
  Bench bench(true);
  bench.write_adapter(0.02F);
  bench.options.quantize_again = true;
  const auto message = message_of<ModelError>([&] { fuse_model(bench.options); });
  CHECK(contains(message, "lost the adapter"));
  CHECK(contains(message, "leave out --quantize-again"));
  CHECK(bench.nothing_left());

  bench.options.force = true;
  FuseReport report;
  CHECK(contains(warnings_of([&] { report = fuse_model(bench.options); }), "written all the same"));
  CHECK_FALSE(report.good());
  CHECK(*report.survival < kLeastSurvival);
  CHECK(load_model(bench.out(), "float32", PackedWeights::keep).packed.size() ==
        matrix_layers(bench.model.spec).size());
}

TEST_CASE("the same adapter survives in unpacked weights") {
  for (const std::string dtype : {"float32", "bfloat16"}) {
    CAPTURE(dtype);
    Bench bench(true);
    bench.write_adapter(0.02F);
    bench.options.dtype = dtype;
    const auto report = fuse_model(bench.options);
    CHECK(report.good());
    CHECK(*report.survival > (dtype == "float32" ? 0.999 : 0.8));
    CHECK(report.adapter.largest > 0.01);
    CHECK(report.adapter.mean < report.adapter.largest);
    CHECK(report.merged_layers == 14);
    CHECK(report.sample_tokens == 12);
    const auto config = read_json(bench.out() / "config.json");
    CHECK_FALSE(config.contains("quantization"));
    CHECK(config.at("torch_dtype") == dtype);
    CHECK(load_model(bench.out(), "float32", PackedWeights::keep).packed.empty());
  }
}

TEST_CASE("an adapter that is large beside a quantization step survives packing again") {
  Bench bench(true);
  bench.write_adapter(1.5F, {"self_attn.q_proj"});
  bench.options.quantize_again = true;
  const auto report = fuse_model(bench.options);
  CHECK(report.good());
  const auto fused = load_model(bench.out(), "float32", PackedWeights::keep);
  CHECK(fused.packed == load_model(bench.base(), "float32", PackedWeights::keep).packed);
  // What it leaves alone keeps every word.
  const std::string up = "model.layers.1.mlp.up_proj";
  for (const char* leaf : {".weight", ".scales", ".biases"}) {
    CHECK(same_bits(fused.params.at(up + leaf), bench.model.params.at(up + leaf)));
  }
  CHECK_FALSE(same_bits(fused.params.at(kQuery + ".weight"), bench.model.params.at(kQuery + ".weight")));
}

TEST_CASE("DoRA, adapters on embedding and head, and tensors trained whole are merged, tied or not") {
  for (const bool tied : {true, false}) {
    for (const bool dora : {true, false}) {
      CAPTURE(tied);
      CAPTURE(dora);
      Bench bench(false, {{"tie_word_embeddings", tied}});
      bench.lora.dora = dora;
      std::vector<std::string> keys{"self_attn.q_proj", "mlp.down_proj", "embed_tokens"};
      if (!tied) {
        keys.push_back("lm_head");
      }
      bench.write_adapter(0.3F, keys, {{"model.norm.weight", randn({64}, "norm")}});
      const auto report = fuse_model(bench.options);
      CHECK(report.adapter.largest > 0.1);
      CHECK(report.fused.largest < 1e-4 * report.adapter.largest + 1e-4);
      CHECK(report.merged_layers == (tied ? 5 : 6));
      CHECK(report.replaced_tensors == 1);
    }
  }
}

TEST_CASE("the folder is complete, and untouched tensors are bit for bit the base's") {
  Bench bench(false);
  bench.write_adapter(0.3F, {"self_attn.q_proj"});
  fuse_model(bench.options);
  for (const char* file : {"tokenizer.json", "tokenizer_config.json", "generation_config.json",
                           "chat_template.jinja", "config.json", "model.safetensors"}) {
    CHECK(fs::exists(bench.out() / file));
  }
  const auto fused = load_model(bench.out(), "float32");
  for (const auto& [name, array] : bench.model.params) {
    CAPTURE(name);
    CHECK(same_bits(fused.params.at(name), array) != name.ends_with("q_proj.weight"));
  }
}

TEST_CASE("an adapter without effect is warned of, and written") {
  Bench bench(false);
  bench.write_adapter(0.0F);
  FuseReport report;
  CHECK(contains(warnings_of([&] { report = fuse_model(bench.options); }), "has no effect"));
  CHECK_FALSE(report.survival.has_value());
  CHECK(report.good());
  CHECK(report.fused.largest == 0);
}

TEST_CASE("what cannot be fused is refused, and leaves nothing") {
  Bench bench(false);
  bench.write_adapter(0.3F);
  bench.options.quantize_again = true;
  CHECK(contains(message_of<ConfigError>([&] { fuse_model(bench.options); }), "is not quantized"));
  bench.options.quantize_again = false;
  bench.options.cancelled = [] { return true; };
  CHECK_THROWS_AS(fuse_model(bench.options), FuseCancelled);
  CHECK(bench.nothing_left());
  bench.options.cancelled = {};
  bench.options.out = bench.base();
  CHECK(contains(message_of<ConfigError>([&] { fuse_model(bench.options); }), "is there already"));
}

TEST_CASE("weights that are not numbers are no good fuse") {
  Bench bench(false);
  bench.write_adapter(std::nanf(""));
  CHECK_THROWS_AS(fuse_model(bench.options), ModelError);
  CHECK(bench.nothing_left());
}
