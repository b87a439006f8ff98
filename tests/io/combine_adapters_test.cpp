// Several adapters as one: what the sum computes, at full and at lower rank, in both formats.
#include "temper/io/combine_adapters.h"

#include "io/tiny_model.h"
#include "temper/base/error.h"
#include "temper/infer/model_view.h"
#include "temper/io/convert_adapter.h"
#include "temper/models/adapter_params.h"
#include "temper/nn/low_rank.h"

using namespace temper;
using namespace temper::test;

namespace {

namespace fs = std::filesystem;

const Json kMixtral{{"model_type", "mixtral"},
                    {"num_local_experts", 3},
                    {"num_experts_per_tok", 2},
                    {"tie_word_embeddings", false}};

Adapter random_adapter(const DecoderSpec& spec, int rank, float scale, const std::vector<std::string>& keys) {
  Adapter adapter{"lora", -1, {.rank = rank, .scale = scale}, {}};
  adapter.params =
      init_adapter(adapter.lora, adaptable_layers(spec, -1, keys), static_cast<std::uint64_t>(rank));
  for (auto& [name, array] : adapter.params) {
    array = array + 0.2F * randn(array.shape(), name + std::to_string(rank));
  }
  mx::eval(values(adapter.params));
  return adapter;
}

mx::array logits_of(const ModelView& view) {
  ForwardContext context{view.params, view.lora, {}};
  const auto tokens = mx::array({5, 9, 200, 7, 31, 120}, {1, 6}, mx::int32);
  return decoder_logits(*view.spec, context, decoder_hidden(*view.spec, context, {.tokens_BT = tokens}));
}

mx::array logits_of(const Model& model, Adapter adapter) {
  make_ready(adapter, model);
  return logits_of(ModelView(model, adapter));
}

// W + w1 s1 (A1 B1)^T + w2 s2 (A2 B2)^T for every weight: no adapter at all.
Model with_updates(Model model, const std::vector<WeightedAdapter>& parts) {
  for (const auto& layer : matrix_layers(model.spec)) {
    for (const auto& [adapter, weight, name] : parts) {
      const auto a = adapter.params.find(layer.name + ".lora_a");
      if (a == adapter.params.end()) {
        continue;
      }
      const auto& b = adapter.params.at(layer.name + ".lora_b");
      auto& w = model.params.at(layer.name + ".weight");
      const auto product = layer.num_experts > 0 ? mx::matmul(b, a->second) : mx::matmul(a->second, b);
      const bool turns = layer.num_experts == 0 && layer.kind != LayerKind::embedding;
      w = w + weight * adapter.lora.of(layer.name).scale * (turns ? mx::transpose(product) : product);
    }
  }
  return model;
}

void save(const fs::path& folder, const Adapter& adapter, const std::string& model) {
  fs::create_directories(folder);
  save_adapter_params(folder, "adapters.safetensors", adapter.params, adapter.lora);
  save_adapter_config(folder, adapter.fine_tune_type, -1, adapter.lora, {}, {{"model", model}});
}

// A model's folder, two adapters of it, and what converting them needs.
struct Bench {
  TempFolder folder;
  Model model;
  std::vector<WeightedAdapter> parts;
  ConvertAdapterOptions options;

  explicit Bench(const Json& changes = kMixtral) : model(tiny_model(changes)) {
    parts = {{random_adapter(model.spec, 2, 3.0F, {"self_attn.q_proj", "self_attn.v_proj", "embed_tokens"}),
              0.7F, "one"},
             {random_adapter(model.spec, 3, 1.5F, {}), 0.3F, "two"}};
    fs::create_directories(folder.path() / "base");
    write_model(folder.path() / "base", model);
    options.model = folder.path() / "base";
    options.base_model = "base";
    options.out = folder.path() / "out";
    options.weights = [this] { return folder.path() / "base"; };
    for (const auto& part : parts) {
      save(folder.path() / part.name, part.adapter, "base");
      options.sources.push_back({folder.path() / part.name, part.weight});
    }
  }
};

} // namespace

TEST_CASE("the sum of adapters computes base + w1 update1 + w2 update2, experts and embedding too") {
  for (const auto& changes : {kMixtral, Json{{"tie_word_embeddings", true}}}) {
    const Bench bench(changes);
    const auto sum = combine_adapters(bench.parts, bench.model.spec);
    CHECK(sum.lora.of("model.layers.0.self_attn.q_proj").rank == 5);
    CHECK(sum.lora.of("model.layers.0.self_attn.o_proj").rank == 3);
    CHECK(sum.lora.of("model.embed_tokens").rank == 2);
    const auto expected = logits_of(ModelView(with_updates(bench.model, bench.parts)));
    CHECK(max_difference(logits_of(bench.model, sum), expected) < 1e-4F);
    CHECK(max_difference(logits_of(ModelView(bench.model)), expected) > 0.1F);
  }
}

TEST_CASE("both formats hold the sum, and a lower rank says what it loses") {
  Bench bench;
  const auto expected = logits_of(ModelView(with_updates(bench.model, bench.parts)));
  for (const auto format : {AdapterFormat::mlx_lm, AdapterFormat::peft}) {
    auto options = bench.options;
    options.format = format;
    options.out = bench.folder.path() / (format == AdapterFormat::peft ? "peft" : "mlx");
    const auto report = convert_adapter(options);
    CHECK(report.rank == 5);
    CHECK_FALSE(report.lost);
    CHECK(max_difference(logits_of(bench.model, load_adapter(options.out, bench.model.spec)), expected) <
          1e-4F);
  }
  bench.options.rank = 4;
  const auto report = convert_adapter(bench.options);
  CHECK(report.rank == 4);
  CHECK(*report.lost > 0.0);
  CHECK(*report.lost < 0.5);
  const auto lowered = logits_of(bench.model, load_adapter(bench.options.out, bench.model.spec));
  CHECK(max_difference(lowered, expected) > 1e-3F);
}

TEST_CASE("work that is ended between two steps leaves nothing") {
  Bench bench;
  bench.options.rank = 2;
  struct Ended {};
  const auto run = [&](int last) {
    int calls = 0;
    bench.options.progress = [&] {
      if (++calls == last) {
        throw Ended{};
      }
    };
    convert_adapter(bench.options);
    return calls;
  };
  const auto entries = [&] {
    return std::distance(fs::directory_iterator(bench.folder.path()), fs::directory_iterator());
  };
  const auto before = entries();
  for (int last = 1; last <= 10; ++last) {
    CHECK_THROWS_AS(run(last), Ended);
    CHECK(entries() == before);
  }
  CHECK(run(0) > 10);
  CHECK(entries() == before + 1);
}

TEST_CASE("a rank that is enough loses nothing") {
  const Bench bench;
  auto twice = combine_adapters({{bench.parts[0].adapter, 0.5F, "a"}, {bench.parts[0].adapter, 0.5F, "b"}},
                                bench.model.spec);
  CHECK(twice.lora.rank == 4);
  CHECK(lower_ranks(twice, bench.model.spec, 2) < 1e-5);
  CHECK(twice.lora.rank == 2);
  CHECK(max_difference(logits_of(bench.model, twice), logits_of(bench.model, bench.parts[0].adapter)) < 1e-4F);
}

TEST_CASE("a product of lower rank is the nearest there is") {
  // Singular values 5, 3, 1 by construction.
  const auto u = mx::linalg::qr(randn({6, 3}, "u"), mx::Device::cpu).first;
  const auto v = mx::linalg::qr(randn({4, 3}, "v"), mx::Device::cpu).first;
  const LoraPair pair{u * mx::array({5.0F, 3.0F, 1.0F}), mx::transpose(v)};
  const auto found = lower_rank(pair, 2);
  CHECK(found.squares == doctest::Approx(35.0));
  CHECK(found.lost_squares == doctest::Approx(1.0));
  const auto nearest = mx::matmul(u * mx::array({5.0F, 3.0F, 0.0F}), mx::transpose(v));
  CHECK(max_difference(mx::matmul(found.pair.a, found.pair.b), nearest) < 1e-4F);
  // More columns than the matrix has on either side.
  const LoraPair wide{randn({3, 7}, "a"), randn({7, 5}, "b")};
  const auto whole = lower_rank(wide, 7);
  CHECK(whole.pair.a.shape(1) == 3);
  CHECK(max_difference(mx::matmul(whole.pair.a, whole.pair.b), mx::matmul(wide.a, wide.b)) < 1e-4F);
  const LoraPair high{randn({7, 6}, "c"), randn({6, 4}, "d")};
  CHECK(max_difference(mx::matmul(lower_rank(high, 6).pair.a, lower_rank(high, 6).pair.b),
                       mx::matmul(high.a, high.b)) < 1e-4F);
}

TEST_CASE("whole tensors are averaged by weights that add up to 1, and refused otherwise") {
  Bench bench;
  const std::string norm = "model.norm.weight";
  bench.parts[0].adapter.params.insert_or_assign(norm, mx::full({16}, 2.0F));
  const auto refusal = [&] {
    return message_of<ConfigError>([&] { combine_adapters(bench.parts, bench.model.spec); });
  };
  CHECK(contains(refusal(), "two: has no model.norm.weight"));
  bench.parts[1].adapter.params.insert_or_assign(norm, mx::full({16}, 4.0F));
  const auto sum = combine_adapters(bench.parts, bench.model.spec);
  CHECK(max_difference(sum.params.at(norm), mx::full({16}, 2.6F)) < 1e-6F);
  bench.parts[1].weight = 1.0F;
  CHECK(contains(refusal(), "add up to 1"));
}

TEST_CASE("DoRA and whole models are not added up; one of weight 1 is left as it is") {
  Bench bench;
  auto dora = bench.parts[0].adapter;
  dora.fine_tune_type = "dora";
  dora.lora.dora = true;
  const auto refusal = [&](const Adapter& adapter) {
    return message_of<ConfigError>([&] {
      combine_adapters({{adapter, 0.5F, "a"}, {bench.parts[1].adapter, 0.5F, "b"}}, bench.model.spec);
    });
  };
  CHECK(contains(refusal(dora), "a: is DoRA"));
  CHECK(contains(refusal({"full", -1, {}, {}}), "trained whole"));
  CHECK(same_bits(combine_adapters({{dora, 1.0F, "a"}}, bench.model.spec).params, dora.params));
}

TEST_CASE("for mlx-lm tensors trained whole take the factors in, and quantized bases are refused") {
  Bench bench;
  auto& adapter = bench.parts[0].adapter;
  adapter.params.insert_or_assign("model.norm.weight", mx::full({16}, 2.0F));
  save(bench.folder.path() / "one", adapter, "base");
  bench.options.sources = {{bench.folder.path() / "one", 1.0}};
  const auto report = convert_adapter(bench.options);
  CHECK(report.fine_tune_type == "full");
  CHECK(report.layers == 0);
  CHECK(report.whole_tensors == 6); // two blocks' q_proj and v_proj, the embedding, the norm
  const auto whole = load_adapter(bench.options.out, bench.model.spec);
  CHECK(max_difference(logits_of(bench.model, whole), logits_of(bench.model, adapter)) < 1e-4F);
}
