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
