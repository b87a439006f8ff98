#include "temper/io/adapters.h"
#include "temper/models/adapter_params.h"

#include "io/tiny_model.h"
#include "temper/base/error.h"
#include "temper/base/files.h"

using namespace temper;
using namespace temper::test;

namespace {

const LoraConfig kLora{.rank = 4, .scale = 10.0F, .dropout = 0.1F};
const std::vector<std::string> kKeys{"self_attn.q_proj", "mlp.down_proj"};

DecoderSpec spec_of(const Json& changes = Json::object()) {
  return read_spec(tiny_config(changes), "config.json");
}

Params factors(const DecoderSpec& spec, int num_layers = -1) {
  auto params = init_adapter(kLora, adaptable_layers(spec, num_layers, kKeys), 1);
  for (auto& [name, array] : params) {
    array = array + 0.1F * randn(array.shape(), name);
  }
  mx::eval(values(params));
  return params;
}

void write_adapter(const std::filesystem::path& folder, const Params& params, int num_layers = -1) {
  save_adapter_params(folder, "adapters.safetensors", params);
  save_adapter_config(folder, "lora", num_layers, kLora, kKeys, {{"iters", 7}, {"num_layers", 99}});
}

template <typename Exception = ModelError>
std::string complaint(const std::filesystem::path& path, const DecoderSpec& spec) {
  const auto message = message_of<Exception>([&] { load_adapter(path, spec); });
  CHECK_FALSE(contains(message, "\n"));
  return message;
}

void change_config(const std::filesystem::path& folder, const std::function<void(Json&)>& change) {
  auto config = read_json(folder / "adapter_config.json");
  change(config);
  write_json(folder / "adapter_config.json", config);
}

} // namespace

TEST_CASE("an adapter is loaded as it was saved, from its folder or its file") {
  const TempFolder folder;
  const auto spec = spec_of();
  const auto params = factors(spec);
  write_adapter(folder.path(), params);
  save_adapter_params(folder.path(), "0000100_adapters.safetensors", params);
  for (const auto& path : {folder.path(), folder.path() / "adapters.safetensors",
                           folder.path() / "0000100_adapters.safetensors"}) {
    const auto adapter = load_adapter(path, spec);
    CHECK(adapter.fine_tune_type == "lora");
    CHECK(adapter.num_layers == -1);
    CHECK(adapter.lora.rank == 4);
    CHECK(adapter.lora.scale == 10.0F);
    CHECK(adapter.lora.dropout == doctest::Approx(0.1));
    CHECK(same_bits(adapter.params, params));
  }
}

TEST_CASE("adapter_config.json has mlx-lm's keys, which details do not override") {
  const TempFolder folder;
  write_adapter(folder.path(), factors(spec_of(), 1), 1);
  const auto config = read_json(folder.path() / "adapter_config.json");
  CHECK(config.at("fine_tune_type") == "lora");
  CHECK(config.at("num_layers") == 1);
  CHECK(config.at("iters") == 7);
  const auto& lora = config.at("lora_parameters");
  CHECK(lora.at("rank") == 4);
  CHECK(lora.at("scale") == 10.0);
  CHECK(lora.at("dropout").get<double>() == doctest::Approx(0.1));
  CHECK(lora.at("keys") == Json(kKeys));
}

TEST_CASE("the file has mlx-lm's names and orientation") {
  const TempFolder folder;
  write_adapter(folder.path(), factors(spec_of(), 1), 1);
  const auto header = read_safetensors_header(folder.path() / "adapters.safetensors");
  CHECK(header.tensors.size() == 4);
  CHECK(header.tensors.at("model.layers.1.mlp.down_proj.lora_a").shape == std::vector<std::int64_t>{24, 4});
  CHECK(header.tensors.at("model.layers.1.mlp.down_proj.lora_b").shape == std::vector<std::int64_t>{4, 16});
}

TEST_CASE("factors stored in half precision become fp32") {
  const TempFolder folder;
  const auto spec = spec_of();
  Params half;
  for (const auto& [name, array] : factors(spec)) {
    half.emplace(name, mx::astype(array, mx::bfloat16));
  }
  write_adapter(folder.path(), half);
  for (const auto& [name, array] : load_adapter(folder.path(), spec).params) {
    CHECK(array.dtype() == mx::float32);
    CHECK(max_difference(array, half.at(name)) == 0.0F);
  }
}

TEST_CASE("an adapter of another model or rank is refused, naming the tensor and both shapes") {
  const TempFolder folder;
  write_adapter(folder.path(), factors(spec_of()));
  const auto wide = complaint(folder.path(), spec_of({{"intermediate_size", 32}}));
  CHECK(contains(wide, "mlp.down_proj.lora_a"));
  CHECK(contains(wide, "[24, 4]"));
  CHECK(contains(wide, "[32, 4]"));
  CHECK(contains(complaint(folder.path(), spec_of({{"num_hidden_layers", 1}})), "model.layers.1."));

  change_config(folder.path(), [](Json& config) { config["lora_parameters"]["rank"] = 8; });
  CHECK(contains(complaint(folder.path(), spec_of()), "[24, 8]"));
}

TEST_CASE("half a pair and foreign tensors are refused") {
  const TempFolder folder;
  auto params = factors(spec_of());
  params.erase("model.layers.0.mlp.down_proj.lora_b");
  write_adapter(folder.path(), params);
  CHECK(contains(complaint(folder.path(), spec_of()), "model.layers.0.mlp.down_proj.lora_a is there without"));
  params = factors(spec_of());
  params.emplace("model.embed_tokens.lora_a", mx::zeros({16, 4}));
  write_adapter(folder.path(), params);
  CHECK(contains(complaint(folder.path(), spec_of()), "model.embed_tokens.lora_a"));
}

TEST_CASE("DoRA's adapters load as such only, with every part of a layer") {
  const TempFolder folder;
  const auto model = tiny_model();
  auto lora = kLora;
  lora.dora = true;
  const auto layers = adaptable_layers(model.spec, -1, {"mlp.down_proj", "embed_tokens"});
  const auto params = init_adapter(lora, layers, 1, weight_norms(model.params, layers));
  const auto write = [&](const std::string& type, const Params& written) {
    save_adapter_params(folder.path(), "adapters.safetensors", written);
    save_adapter_config(folder.path(), type, -1, lora, {"mlp.down_proj", "model.embed_tokens"}, Json::object());
  };
  write("dora", params);
  const auto adapter = load_adapter(folder.path(), model.spec);
  CHECK(adapter.lora.dora);
  CHECK(same_bits(adapter.params, params));
  CHECK(params.at("model.embed_tokens.m").shape() == mx::Shape{300});
  CHECK(params.at("model.embed_tokens.lora_a").shape() == mx::Shape{300, 4});
  CHECK(params.at("model.embed_tokens.lora_b").shape() == mx::Shape{4, 16});

  write("lora", params);
  CHECK(contains(complaint(folder.path(), model.spec),
                 "tensor model.embed_tokens.m is DoRA's, but adapter_config.json says fine_tune_type lora"));
  auto part = params;
  part.erase("model.layers.0.mlp.down_proj.m");
  write("dora", part);
  CHECK(contains(complaint(folder.path(), model.spec),
                 "down_proj.lora_a is there without model.layers.0.mlp.down_proj.m"));
  part = params;
  part.erase("model.layers.0.mlp.down_proj.lora_a");
  write("dora", part);
  CHECK(contains(complaint(folder.path(), model.spec), "is there without model.layers.0.mlp.down_proj.lora_a"));
}

TEST_CASE("experts' factors have mlx-lm's shapes, and those of another number of experts are refused") {
  const TempFolder folder;
  const Json experts{{"model_type", "mixtral"}, {"num_local_experts", 4}, {"num_experts_per_tok", 2}};
  const auto spec = spec_of(experts);
  const auto params = init_adapter(kLora, adaptable_layers(spec, -1, {}), 1);
  save_adapter_params(folder.path(), "adapters.safetensors", params);
  save_adapter_config(folder.path(), "lora", -1, kLora, {}, Json::object());
  const auto adapter = load_adapter(folder.path(), spec);
  const std::string layer = "model.layers.1.block_sparse_moe.switch_mlp.gate_proj";
  CHECK(adapter.params.at(layer + ".lora_a").shape() == mx::Shape{4, 4, 16});
  CHECK(adapter.params.at(layer + ".lora_b").shape() == mx::Shape{4, 24, 4});
  auto other = experts;
  other["num_local_experts"] = 8;
  CHECK(contains(complaint(folder.path(), spec_of(other)),
                 "has shape [4, 4, 24], this model and rank need [8, 4, 24]"));
}

TEST_CASE("weights trained beside an adapter are in its file under their own names") {
  const TempFolder folder;
  const auto spec = spec_of();
  auto params = factors(spec);
  params.emplace("model.norm.weight", mx::ones({16}));
  write_adapter(folder.path(), params);
  CHECK(same_bits(load_adapter(folder.path(), spec).params, params));
  params.insert_or_assign("model.norm.weight", mx::ones({8}));
  write_adapter(folder.path(), params);
  CHECK(contains(complaint(folder.path(), spec), "model.norm.weight has shape [8]"));
}

TEST_CASE("layers with a rank or weight of their own are written for the common scale") {
  const TempFolder folder;
  const auto spec = spec_of();
  auto lora = kLora;
  lora.layers["model.layers.0.mlp.down_proj"] = {2, 5.0F};
  lora.layers["model.layers.1.self_attn.q_proj"] = {4, 40.0F};
  auto params = init_adapter(lora, adaptable_layers(spec, -1, kKeys), 1);
  for (auto& [name, array] : params) {
    array = array + randn(array.shape(), name);
  }
  save_adapter_params(folder.path(), "adapters.safetensors", params, lora);
  save_adapter_config(folder.path(), "lora", -1, lora, kKeys, Json::object());
  CHECK(read_json(folder.path() / "adapter_config.json")["lora_parameters"]["ranks"] ==
        Json{{"model.layers.0.mlp.down_proj", 2}});
  const auto adapter = load_adapter(folder.path(), spec);
  for (const auto& [name, array] : params) {
    CAPTURE(name);
    const auto layer = name.substr(0, name.rfind('.'));
    const float share = name.ends_with("_b") ? lora.of(layer).scale / adapter.lora.of(layer).scale : 1.0F;
    CHECK(relative_difference(adapter.params.at(name), array * share) < 1e-6F);
  }
  const auto again = load_adapter_params(folder.path() / "adapters.safetensors", params, lora);
  for (const auto& [name, array] : params) {
    CHECK(relative_difference(again.at(name), array) < 1e-6F);
  }
}

TEST_CASE("an adapter made ready computes as it did, with DoRA's factors computed once") {
  const auto model = tiny_model();
  Adapter adapter{"dora", -1, kLora, {}};
  adapter.lora.dora = true;
  const auto layers = adaptable_layers(model.spec, -1, {"mlp.down_proj", "embed_tokens"});
  adapter.params = init_adapter(adapter.lora, layers, 1, weight_norms(model.params, layers));
  for (auto& [name, array] : adapter.params) {
    array = array + 0.1F * randn(array.shape(), name);
  }
  const auto logits = [&] {
    ForwardContext context{ParamView(model.params, &adapter.params), adapter.lora, {}};
    const auto tokens = mx::array({5, 9, 200, 7}, {1, 4}, mx::int32);
    return decoder_logits(model.spec, context, decoder_hidden(model.spec, context, {.tokens_BT = tokens}));
  };
  const auto expected = logits();
  mx::eval(expected);
  make_ready(adapter, model);
  CHECK(adapter.params.contains("model.layers.0.mlp.down_proj.dora_scale"));
  CHECK(adapter.params.contains("model.embed_tokens.dora_scale")); // the tied head's
  CHECK(relative_difference(logits(), expected) < 1e-5F);
}

TEST_CASE("damaged or incomplete adapter folders are refused in one line") {
  const TempFolder folder;
  const auto spec = spec_of();
  const auto refuse = [&] { return complaint<CheckpointError>(folder.path(), spec); };
  CHECK(contains(complaint<CheckpointError>(folder.path() / "none", spec), "no such adapter"));
  CHECK(contains(refuse(), "no adapter_config.json"));
  write_adapter(folder.path(), factors(spec));
  std::filesystem::remove(folder.path() / "adapters.safetensors");
  CHECK(contains(refuse(), "no such adapter file"));

  write_adapter(folder.path(), factors(spec));
  change_config(folder.path(), [](Json& config) { config["fine_tune_type"] = "qora"; });
  CHECK(contains(refuse(), "qora is not supported"));
  change_config(folder.path(), [](Json& config) { config["fine_tune_type"] = 3; });
  CHECK(contains(refuse(), "fine_tune_type"));

  write_adapter(folder.path(), factors(spec));
  change_config(folder.path(), [](Json& config) { config["num_layers"] = "all"; });
  CHECK(contains(refuse(), "num_layers"));
  write_adapter(folder.path(), factors(spec));
  change_config(folder.path(), [](Json& config) { config["lora_parameters"].erase("rank"); });
  CHECK(contains(refuse(), "rank"));
  change_config(folder.path(), [](Json& config) { config["lora_parameters"] = "many"; });
  CHECK(contains(refuse(), "lora_parameters"));
  change_config(folder.path(), [](Json& config) { config = Json::array(); });
  CHECK(contains(refuse(), "adapter_config.json"));
  write_file_atomic(folder.path() / "adapter_config.json", "{");
  CHECK(contains(refuse(), "adapter_config.json"));
}

TEST_CASE("full fine-tuning's weights load as an adapter") {
  const TempFolder folder;
  const auto model = tiny_model();
  const Params trained{{"model.norm.weight", mx::full({16}, 2.0F, mx::float32)}};
  save_adapter_params(folder.path(), "adapters.safetensors", trained);
  save_adapter_config(folder.path(), "full", -1, {}, {}, Json::object());
  const auto adapter = load_adapter(folder.path(), model.spec);
  CHECK(adapter.fine_tune_type == "full");
  CHECK(same_bits(adapter.params, trained));

  save_adapter_params(folder.path(), "adapters.safetensors", {{"model.norm.weight", mx::ones({8})}});
  CHECK(contains(complaint(folder.path(), model.spec), "model.norm.weight has shape [8]"));
  save_adapter_params(folder.path(), "adapters.safetensors", {{"model.norms.weight", mx::ones({16})}});
  CHECK(contains(complaint(folder.path(), model.spec), "no tensor model.norms.weight"));
}

TEST_CASE("factors to go on from must be exactly those that the run trains") {
  const TempFolder folder;
  const auto spec = spec_of();
  const auto params = factors(spec);
  write_adapter(folder.path(), params);
  const auto file = folder.path() / "adapters.safetensors";
  CHECK(same_bits(load_adapter_params(file, params), params));
  const auto refuse = [&](const Params& expected) {
    return message_of<ModelError>([&] { load_adapter_params(file, expected); });
  };
  CHECK(contains(refuse(factors(spec, 1)), "model.layers.0.mlp.down_proj.lora_a is not trained by this run"));
  auto more = params;
  more.emplace("model.layers.0.mlp.up_proj.lora_a", mx::zeros({16, 4}));
  CHECK(contains(refuse(more), "model.layers.0.mlp.up_proj.lora_a is missing"));
  auto other = params;
  other.at("model.layers.0.mlp.down_proj.lora_a") = mx::zeros({24, 8});
  CHECK(contains(refuse(other), "[24, 8]"));
  CHECK_THROWS_AS(load_adapter_params(folder.path() / "none.safetensors", params), CheckpointError);
}
