// PEFT's folders (tests/golden/peft_adapters): what they compute here, and what is written for PEFT.
#include "temper/io/peft.h"

#include "base/messages.h"
#include "io/tiny_model.h"
#include "temper/base/error.h"
#include "temper/base/files.h"
#include "temper/infer/model_view.h"

using namespace temper;
using namespace temper::test;

namespace {

namespace fs = std::filesystem;

const fs::path kGolden = TEMPER_TEST_DATA;
const fs::path kAdapters = kGolden / "peft_adapters";

const std::vector<std::string>& cases() {
  static const std::vector<std::string> kCases{"lora",       "dora",      "rslora", "patterns", "regex",
                                               "layer",      "embedding", "saved",  "biases",   "tied",
                                               "tied_saved", "phi3",      "gemma3", "experts"};
  return kCases;
}

fs::path base_of(const std::string& name) {
  return kGolden / peft_base_model(read_json(kAdapters / name / "adapter_config.json"));
}

mx::array logits_of(const ModelView& view, const mx::array& tokens) {
  ForwardContext context{view.params, view.lora, {}};
  return decoder_logits(*view.spec, context, decoder_hidden(*view.spec, context, {.tokens_BT = tokens}));
}

// Without what PEFT saves of the base beside it.
Params own_tensors(const fs::path& file) {
  auto params = load_safetensors(file);
  std::erase_if(params, [](const auto& entry) { return entry.first.ends_with(".base_layer.weight"); });
  return params;
}

// A PEFT folder that a test spoils.
struct Spoiled {
  TempFolder folder;
  DecoderSpec spec;

  explicit Spoiled(const std::string& name = "lora") : spec(load_spec(base_of(name))) {
    for (const char* file : {"adapter_config.json", "adapter_model.safetensors"}) {
      fs::copy_file(kAdapters / name / file, folder.path() / file);
    }
  }

  void set(const std::string& key, const Json& value) const {
    auto config = read_json(folder.path() / "adapter_config.json");
    config[key] = value;
    write_json(folder.path() / "adapter_config.json", config);
  }

  void change(const std::function<void(Params&)>& change) const {
    auto params = load_safetensors(folder.path() / "adapter_model.safetensors");
    change(params);
    mx::eval(values(params));
    save_safetensors(folder.path() / "adapter_model.safetensors", params);
  }

  template <typename Exception = CheckpointError>
  std::string complaint() const {
    const auto message = message_of<Exception>([&] { load_adapter(folder.path(), spec); });
    CHECK_FALSE(contains(message, "\n"));
    return message;
  }
};

const std::string kQuery = "base_model.model.model.layers.0.self_attn.q_proj";

} // namespace

TEST_CASE("PEFT's adapters compute here what they compute in PEFT") {
  for (const auto& name : cases()) {
    CAPTURE(name);
    const auto model = load_model(base_of(name), "float32");
    auto adapter = load_adapter(kAdapters / name, model.spec);
    make_ready(adapter, model);
    const auto expected = load_safetensors(kAdapters / name / "logits.safetensors");
    const auto found = logits_of(ModelView(model, adapter), expected.at("tokens"));
    CHECK(max_difference(found, expected.at("logits")) < 1e-4F);
    CHECK(max_difference(logits_of(ModelView(model), expected.at("tokens")), expected.at("logits")) > 1e-2F);
  }
}

TEST_CASE("what is written for PEFT has its own tensors, and modules and scales that mean the same") {
  for (const auto& name : cases()) {
    CAPTURE(name);
    const auto spec = load_spec(base_of(name));
    const auto adapter = load_adapter(kAdapters / name, spec);
    const TempFolder folder;
    save_peft_adapter(folder.path(), adapter, spec, "org/base");
    const auto theirs = own_tensors(kAdapters / name / "adapter_model.safetensors");
    const auto ours = load_safetensors(folder.path() / "adapter_model.safetensors");
    CHECK(same_bits(ours, theirs));

    const auto json = read_json(folder.path() / "adapter_config.json");
    CHECK(json.at("base_model_name_or_path") == "org/base");
    const PeftConfig written(json, "written");
    const PeftConfig original(read_json(kAdapters / name / "adapter_config.json"), "original");
    for (const auto& [tensor, array] : ours) {
      const auto at = tensor.find(".lora_");
      if (at == std::string::npos) {
        continue;
      }
      const auto module = tensor.substr(17, at - 17);
      CAPTURE(module);
      CHECK(written.adapts(module));
      CHECK(written.of(module).rank == original.of(module).rank);
      CHECK(written.of(module).scale == doctest::Approx(original.of(module).scale));
    }
    const auto again = load_adapter(folder.path(), spec);
    CHECK(same_bits(again.params, adapter.params));
  }
}

TEST_CASE("an adapter that trained elsewhere is what a run goes on from, at the run's own scale") {
  const auto spec = load_spec(base_of("lora"));
  const auto adapter = load_adapter(kAdapters / "lora", spec);
  const LoraConfig run{.rank = 2, .scale = 8.0F};
  const auto start = load_adapter_start(kAdapters / "lora", spec, adapter.params, run);
  for (const auto& [name, array] : adapter.params) {
    CAPTURE(name);
    CHECK(same_bits(start.at(name), name.ends_with(".lora_b") ? array * (2.0F / 8.0F) : array));
  }
  auto more = adapter.params;
  more.emplace("model.norm.weight", mx::ones({32}));
  CHECK(contains(message_of<ModelError>([&] { load_adapter_start(kAdapters / "lora", spec, more, run); }),
                 "model.norm.weight is missing"));
}

TEST_CASE("what of PEFT's settings changes the maths is refused by name") {
  const std::vector<std::pair<std::string, Json>> asked{
      {"lora_bias", true},
      {"use_qalora", true},
      {"alora_invocation_tokens", {1, 2}},
      {"layer_replication", {{0, 1}}},
      {"trainable_token_indices", {1, 2}},
      {"target_parameters", {"experts.down_proj"}},
      {"use_bdlora", {{"nblocks", 2}}},
      {"arrow_config", {{"top_k", 2}}},
      {"kasa_config", {{"beta", 0.1}}},
      {"monteclora_config", {{"a", 0.1}}},
      {"init_lora_weights", "pissa"},
      {"peft_type", "IA3"},
  };
  for (const auto& [key, value] : asked) {
    const Spoiled spoiled;
    spoiled.set(key, value);
    const auto message = spoiled.complaint();
    CAPTURE(message);
    CHECK(contains(message, "adapter_config.json: " + key));
  }
}

TEST_CASE("settings of the wrong kind are refused by name, and unknown ones warned of") {
  for (const auto& [key, value] : std::vector<std::pair<std::string, Json>>{{"r", "many"},
                                                                            {"r", 0},
                                                                            {"lora_alpha", "much"},
                                                                            {"rank_pattern", {{"q_proj", "x"}}},
                                                                            {"target_modules", {1, 2}},
                                                                            {"use_dora", 3}}) {
    const Spoiled spoiled;
    spoiled.set(key, value);
    CHECK(contains(spoiled.complaint(), key));
  }
  const Spoiled wild;
  wild.set("target_modules", "(q_proj");
  CHECK(contains(wild.complaint(), "\"(q_proj\" is not a regular expression"));
  const Spoiled newer;
  newer.set("use_tomorrows_lora", true);
  CHECK(contains(warnings_of([&] { load_adapter(newer.folder.path(), newer.spec); }),
                 "key use_tomorrows_lora is not known"));
}

TEST_CASE("PEFT's files that do not hold together are refused") {
  const Spoiled ranks;
  ranks.set("rank_pattern", {{"q_proj", 7}});
  CHECK(contains(ranks.complaint<ModelError>(), "gives the layer rank 7"));
  const Spoiled half;
  half.change([](Params& params) { params.erase(kQuery + ".lora_B.weight"); });
  CHECK(contains(half.complaint<ModelError>(), "has one of the factors"));
  const Spoiled other;
  other.change([](Params& params) {
    params.emplace("base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight", mx::zeros({2, 32}));
    params.emplace("base_model.model.model.layers.7.self_attn.q_proj.lora_B.weight", mx::zeros({32, 2}));
  });
  CHECK(contains(other.complaint<ModelError>(), "belongs to no layer of this model"));
  const Spoiled unnamed;
  unnamed.change([](Params& params) { params.emplace("lora_A.weight", mx::zeros({2, 32})); });
  CHECK(contains(unnamed.complaint<ModelError>(), "does not begin with base_model.model."));
  const Spoiled biased;
  biased.change([](Params& params) { params.emplace(kQuery + ".lora_B.bias", mx::zeros({32})); });
  CHECK(contains(biased.complaint<ModelError>(), "lora_B.bias is none"));
  const Spoiled magnitude;
  magnitude.change([](Params& params) { params.emplace(kQuery + ".lora_magnitude_vector", mx::zeros({32})); });
  CHECK(contains(magnitude.complaint<ModelError>(), "use_dora false"));
  const Spoiled shape;
  shape.change([](Params& params) { params.at(kQuery + ".lora_A.weight") = mx::zeros({2, 30}); });
  CHECK(contains(shape.complaint<ModelError>(), "this model and rank need [32, 2]"));
}

TEST_CASE("modules that the settings do not choose are left out, as in PEFT, with a warning") {
  const Spoiled spoiled;
  spoiled.set("exclude_modules", {"layers.1.mlp.down_proj"});
  const auto lines = warnings_of([&] {
    CHECK_FALSE(load_adapter(spoiled.folder.path(), spoiled.spec)
                    .params.contains("model.layers.1.mlp.down_proj.lora_a"));
  });
  CHECK(contains(lines, "model.layers.1.mlp.down_proj"));
}

TEST_CASE("a pickled adapter is refused with what to do") {
  const Spoiled spoiled;
  fs::rename(spoiled.folder.path() / "adapter_model.safetensors", spoiled.folder.path() / "adapter_model.bin");
  CHECK(contains(spoiled.complaint(), "pickled"));
  fs::remove(spoiled.folder.path() / "adapter_model.bin");
  CHECK(contains(spoiled.complaint(), "no adapter_model.safetensors"));
}

TEST_CASE("a tied head and its embedding are adapted together or refused") {
  const Spoiled apart("tied");
  apart.set("ensure_weight_tying", false);
  apart.change([](Params& params) {
    std::erase_if(params, [](const auto& entry) { return contains(entry.first, "lm_head"); });
  });
  CHECK(contains(apart.complaint<ModelError>(), "ensure_weight_tying"));
  const Spoiled saved("tied_saved");
  saved.change([](Params& params) {
    auto& head = params.at("base_model.model.lm_head.weight");
    head = head + 1.0F;
  });
  CHECK(contains(saved.complaint<ModelError>(), "head of its own"));
}

TEST_CASE("what PEFT cannot express is refused by name") {
  const auto refusal = [](const Json& changes, const LoraConfig& lora, const Params& params) {
    const TempFolder folder;
    const auto spec = read_spec(tiny_config(changes), "config.json");
    return message_of<ModelError>([&] {
      save_peft_adapter(folder.path(), {"lora", -1, lora, params}, spec, "base");
    });
  };
  const LoraConfig plain{.rank = 2, .scale = 1.0F};
  auto dora = plain;
  dora.dora = true;
  CHECK(contains(refusal(Json::object(), dora,
                         {{"model.embed_tokens.lora_a", mx::zeros({300, 2})},
                          {"model.embed_tokens.lora_b", mx::zeros({2, 16})},
                          {"model.embed_tokens.m", mx::zeros({300})}}),
                 "model.embed_tokens: PEFT's DoRA"));
  const Json mixtral{{"model_type", "mixtral"}, {"num_local_experts", 4}, {"num_experts_per_tok", 2}};
  CHECK(
      contains(refusal(mixtral, plain,
                       {{"model.layers.0.block_sparse_moe.switch_mlp.up_proj.weight", mx::zeros({4, 24, 16})}}),
               "no place for whole experts"));
  const TempFolder folder;
  CHECK_THROWS_AS(save_peft_adapter(folder.path(), {"full", -1, {}, {}}, read_spec(tiny_config(), "c"), "base"),
                  ConfigError);
}

TEST_CASE("experts adapted in part are completed with zeros, for PEFT joins gate and up") {
  const Json mixtral{{"model_type", "mixtral"}, {"num_local_experts", 2}, {"num_experts_per_tok", 2}};
  const auto spec = read_spec(tiny_config(mixtral), "config.json");
  LoraConfig lora{.rank = 2, .scale = 1.0F};
  lora.layers["model.layers.0.block_sparse_moe.switch_mlp.down_proj"] = {3, 2.0F};
  const std::string experts = "model.layers.0.block_sparse_moe.switch_mlp.";
  const Params params{{experts + "gate_proj.lora_a", randn({2, 2, 16}, "a")},
                      {experts + "gate_proj.lora_b", randn({2, 24, 2}, "b")},
                      {experts + "down_proj.lora_a", randn({2, 3, 24}, "c")},
                      {experts + "down_proj.lora_b", randn({2, 16, 3}, "d")}};
  const TempFolder folder;
  save_peft_adapter(folder.path(), {"lora", -1, lora, params}, spec, "base");
  const auto again = load_adapter(folder.path(), spec);
  const auto update = [&](const Params& from, const LoraConfig& config, const std::string& layer) {
    return mx::matmul(from.at(layer + ".lora_b"), from.at(layer + ".lora_a")) * config.of(layer).scale;
  };
  for (const std::string layer : {"gate_proj", "down_proj"}) {
    CHECK(again.params.at(experts + layer + ".lora_a").shape(1) == 3);
    CHECK(max_difference(update(again.params, again.lora, experts + layer),
                         update(params, lora, experts + layer)) < 1e-5F);
  }
  CHECK(mx::max(mx::abs(again.params.at(experts + "up_proj.lora_b"))).item<float>() == 0.0F);
}
