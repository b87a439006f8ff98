#include "temper/io/model_folder.h"

#include "io/tiny_model.h"
#include "temper/base/error.h"
#include "temper/base/files.h"
#include "temper/base/log.h"
#include "temper/models/tensors.h"
#include "temper/nn/linear.h"

using namespace temper;
using namespace temper::test;

namespace {

std::string complaint(const std::filesystem::path& folder) {
  return message_of<ModelError>([&] { load_model(folder, "float32"); });
}

// The complaint about a folder whose tensors were changed.
std::string after(const std::function<void(Params&)>& change) {
  const TempFolder folder;
  auto model = tiny_model();
  change(model.params);
  write_model(folder.path(), model);
  const auto message = complaint(folder.path());
  CHECK(message.empty() != contains(message, folder.path().string()));
  return message;
}

const std::string kUp = "model.layers.1.mlp.up_proj.weight";

// Two shards and their index; `map` may be changed before it is written.
void write_sharded(const std::filesystem::path& folder, const Model& model,
                   const std::function<void(Json&)>& change = {}) {
  Params shards[2];
  auto map = Json::object();
  int n = 0;
  for (const auto& [name, array] : model.params) {
    const int shard = n++ % 2;
    shards[shard].emplace(name, array);
    map[name] = "model-0000" + std::to_string(shard + 1) + "-of-00002.safetensors";
  }
  Json index{{"metadata", {{"total_size", 1}}}, {"weight_map", map}};
  if (change) {
    change(index);
  }
  write_json(folder / "config.json", model.config);
  write_json(folder / "model.safetensors.index.json", index);
  save_safetensors(folder / "model-00001-of-00002.safetensors", shards[0]);
  save_safetensors(folder / "model-00002-of-00002.safetensors", shards[1]);
}

} // namespace

TEST_CASE("a folder is read, cast and checked") {
  const TempFolder folder;
  const auto model = tiny_model();
  write_model(folder.path(), model);
  CHECK(same_bits(load_model(folder.path(), "float32").params, model.params));
  const auto half = load_model(folder.path(), "bfloat16");
  CHECK(half.dtype == mx::bfloat16);
  for (const auto& [name, array] : half.params) {
    CHECK(array.dtype() == mx::bfloat16);
  }
  CHECK_THROWS_AS(load_model(folder.path(), "int4"), ConfigError);
}

TEST_CASE("shards are read by their index") {
  const TempFolder folder;
  const auto model = tiny_model();
  write_sharded(folder.path(), model);
  CHECK(same_bits(load_model(folder.path(), "float32").params, model.params));
}

TEST_CASE("missing, extra and misshaped tensors are named") {
  CHECK(contains(after([](Params& p) { p.erase(kUp); }), "missing tensors: " + kUp));
  CHECK(contains(after([](Params& p) { p.emplace("model.layers.2.mlp.up_proj.weight", mx::ones({2})); }),
                 "model.layers.2.mlp.up_proj.weight"));
  const auto message = after([](Params& p) { p.at(kUp) = mx::ones({24, 15}); });
  CHECK(contains(message, kUp));
  CHECK(contains(message, "[24, 15]"));
  CHECK(contains(message, "[24, 16]"));
}

TEST_CASE("of many missing tensors five are named and the rest counted") {
  const auto message = after([](Params& p) {
    std::erase_if(p, [](const auto& entry) { return entry.first.starts_with("model.layers.1."); });
  });
  CHECK(contains(message, "model.layers.1.input_layernorm.weight"));
  CHECK(contains(message, "and 4 more"));
}

TEST_CASE("an index that names a file that is not there, or is damaged, is refused") {
  const auto model = tiny_model();
  const TempFolder gone;
  write_sharded(gone.path(), model);
  std::filesystem::remove(gone.path() / "model-00002-of-00002.safetensors");
  CHECK(contains(complaint(gone.path()), "model-00002-of-00002.safetensors, which is not in the folder"));

  const TempFolder empty;
  write_sharded(empty.path(), model, [](Json& index) { index.erase("weight_map"); });
  CHECK(contains(complaint(empty.path()), "weight_map is missing"));

  const TempFolder number;
  write_sharded(number.path(), model, [](Json& index) { index["weight_map"][kUp] = 7; });
  CHECK_FALSE(complaint(number.path()).empty());

  const TempFolder list;
  write_sharded(list.path(), model, [](Json& index) { index = Json::array(); });
  CHECK(contains(complaint(list.path()), "weight_map is missing"));

  const TempFolder damaged;
  write_sharded(damaged.path(), model);
  write_file_atomic(damaged.path() / "model.safetensors.index.json", "{");
  CHECK(contains(complaint(damaged.path()), "model.safetensors.index.json"));
}

TEST_CASE("a tensor in two shards is refused") {
  const TempFolder folder;
  const auto model = tiny_model();
  write_model(folder.path(), model);
  save_safetensors(folder.path() / "model-2.safetensors", {{kUp, mx::ones({24, 16})}});
  CHECK(contains(complaint(folder.path()), kUp + " is there twice"));
}

TEST_CASE("a tied model may store its head all the same; an untied one must") {
  CHECK(after([](Params& p) { p.emplace("lm_head.weight", p.at("model.embed_tokens.weight")); }).empty());
  const TempFolder folder;
  auto model = tiny_model({{"tie_word_embeddings", false}});
  write_model(folder.path(), model);
  CHECK(load_model(folder.path()).params.contains("lm_head.weight"));
  model.params.erase("lm_head.weight");
  write_model(folder.path(), model);
  CHECK(contains(complaint(folder.path()), "lm_head.weight"));
}

TEST_CASE("folders that hold no model say what is missing") {
  const TempFolder folder;
  CHECK(contains(complaint(folder.path() / "nowhere"), "no such model folder"));
  CHECK(contains(complaint(folder.path()), "no config.json"));
  write_json(folder.path() / "config.json", tiny_config());
  CHECK(contains(complaint(folder.path()), "holds no weights"));
  write_file_atomic(folder.path() / "config.json", "{\"model_type\": ");
  CHECK(contains(complaint(folder.path()), "config.json"));
  write_file_atomic(folder.path() / "config.json", "[]");
  CHECK(contains(complaint(folder.path()), "not a JSON object"));
}

TEST_CASE("a dtype of auto is what the folder stores, fp32 on a CPU") {
  CHECK(stored_dtype({{"torch_dtype", "bfloat16"}}) == mx::bfloat16);
  CHECK(stored_dtype({{"dtype", "float16"}}) == mx::float16);
  CHECK(stored_dtype({{"dtype", "float8"}}) == mx::float32);
  CHECK(stored_dtype(Json::object()) == mx::float32);
  const bool cpu = mx::default_device() == mx::Device::cpu;
  CHECK(resolve_dtype("auto", {{"torch_dtype", "bfloat16"}}) == (cpu ? mx::float32 : mx::bfloat16));
  CHECK(resolve_dtype("float16", {{"torch_dtype", "bfloat16"}}) == mx::float16);
}

TEST_CASE("a saved model is a folder that loads, with the tokenizer's files and the dtype it says") {
  const TempFolder source;
  const TempFolder target;
  const auto model = tiny_model();
  write_model(source.path(), model);
  write_file_atomic(source.path() / "tokenizer.json", "{}");
  const auto loaded = load_model(source.path(), "float32");
  const auto out = target.path() / "deep" / "model";
  save_model(out, loaded, loaded.params, mx::bfloat16);
  CHECK(read_file(out / "tokenizer.json") == "{}");
  const auto config = read_json(out / "config.json");
  CHECK(config.at("torch_dtype") == "bfloat16");
  CHECK_FALSE(config.contains("dtype"));
  const auto again = load_model(out, "bfloat16");
  for (const auto& [name, array] : again.params) {
    CHECK(same_bits(array, mx::astype(model.params.at(name), mx::bfloat16)));
  }
  CHECK(read_safetensors_header(out / "model.safetensors").tensors.at(kUp).dtype == "BF16");
}

namespace {

const std::string kGate = "model.layers.0.mlp.gate_proj";
const Json kWide{{"hidden_size", 64}, {"intermediate_size", 96}};
const Json kGroups{{"group_size", 32}, {"bits", 4}};

// A model whose matrices are packed, but for what `format_of` leaves out; config.json says `quantization`.
Model packed_model(const Json& quantization,
                   const std::function<std::optional<QuantFormat>(const std::string&)>& format_of = {}) {
  auto model = tiny_model(kWide);
  for (const auto& layer : matrix_layers(model.spec)) {
    const auto format = format_of ? format_of(layer.name) : QuantFormat{"affine", 4, 32};
    if (format) {
      const auto packed = quantize(model.params.at(layer.name + ".weight"), *format, layer.name);
      model.params.at(layer.name + ".weight") = packed.weight;
      model.params.emplace(layer.name + ".scales", packed.scales);
      if (packed.biases) {
        model.params.emplace(layer.name + ".biases", *packed.biases);
      }
    }
  }
  if (!quantization.is_null()) {
    model.config["quantization"] = quantization;
  }
  return model;
}

std::string packed_complaint(const Model& model) {
  const TempFolder folder;
  write_model(folder.path(), model);
  return complaint(folder.path());
}

} // namespace

TEST_CASE("packed weights are kept as stored, or unpacked for a CPU") {
  const TempFolder folder;
  const auto model = packed_model(kGroups);
  write_model(folder.path(), model);
  const auto kept = load_model(folder.path(), "bfloat16", PackedWeights::keep);
  CHECK(kept.packed.size() == matrix_layers(model.spec).size());
  CHECK(kept.packed.at(kGate) == QuantFormat{"affine", 4, 32});
  for (const auto& [name, array] : kept.params) {
    CHECK(same_bits(array, is_packed_part(kept, name) ? model.params.at(name)
                                                      : mx::astype(model.params.at(name), mx::bfloat16)));
  }
  const auto dense = load_model(folder.path(), "float32", PackedWeights::unpack);
  CHECK(dense.packed.empty());
  CHECK(dense.params.size() == expected_tensors(model.spec).size());
  const ParamView view(model.params);
  CHECK(same_bits(dense.params.at(kGate + ".weight"), dense_weight(view, kGate, 64, mx::float32)));
  const bool cpu = mx::default_device() == mx::Device::cpu;
  CHECK(load_model(folder.path()).packed.empty() == cpu);
}

TEST_CASE("layers may be packed otherwise than the rest, or not at all, as the config lists them") {
  auto json = kGroups;
  json[kGate] = {{"mode", "mxfp8"}};
  json["model.embed_tokens"] = false;
  const auto model = packed_model(json, [](const std::string& name) -> std::optional<QuantFormat> {
    if (name == kGate) {
      return QuantFormat{"mxfp8", 8, 32};
    }
    return name == "model.embed_tokens" ? std::nullopt : std::optional(QuantFormat{"affine", 4, 32});
  });
  CHECK(packed_complaint(model) == "");
  auto wrong = model;
  wrong.config["quantization"][kGate] = {{"bits", 8}, {"group_size", 32}};
  CHECK(
      contains(packed_complaint(wrong),
               kGate + " is said to be affine, 8 bits in groups of 32, but is mxfp8, 8 bits in groups of 32"));
  wrong.config["quantization"][kGate] = false;
  CHECK(contains(packed_complaint(wrong), kGate + " is said to be unpacked"));
  wrong.config["quantization"]["model.embed_tokens"] = kGroups;
  CHECK(contains(packed_complaint(wrong), "but is unpacked"));
}

TEST_CASE("config.json and tensors that disagree about quantization are refused") {
  CHECK(contains(packed_complaint(packed_model(nullptr)),
                 "quantization: it is missing, but the weights are packed"));
  auto dense = tiny_model(kWide);
  dense.config["quantization"] = kGroups;
  CHECK(contains(packed_complaint(dense), "it says affine, 4 bits in groups of 32, but no tensor is packed"));
  CHECK(contains(packed_complaint(packed_model({{"group_size", 32}, {"bits", 8}})),
                 "it says affine, 8 bits in groups of 32, but the tensors are otherwise: "));
  auto other = packed_model(kGroups);
  other.config["quantization_config"] = {{"quant_method", "gptq"}};
  CHECK(packed_complaint(other) == ""); // mlx-lm's own key goes first
  other.config.erase("quantization");
  CHECK(contains(packed_complaint(other), "quant_method gptq is not supported"));
}

TEST_CASE("a layer that the config does not list may be packed otherwise, with a warning") {
  std::string lines;
  log::set_writer([&](std::string_view line) { lines += line; });
  CHECK(packed_complaint(packed_model(kGroups, [](const std::string& name) {
          return std::optional(QuantFormat{"affine", name == kGate ? 8 : 4, 32});
        })) == "");
  log::set_writer(nullptr);
  CHECK(contains(lines, kGate + " (affine, 8 bits in groups of 32)"));
}

TEST_CASE("packed tensors of the wrong shape, or without their scales, are named") {
  const auto spoilt = [](const std::function<void(Params&)>& spoil) {
    auto model = packed_model(kGroups);
    spoil(model.params);
    return packed_complaint(model);
  };
  CHECK(
      contains(spoilt([](Params& p) { p.erase(kGate + ".scales"); }), "missing tensors: " + kGate + ".scales"));
  CHECK(
      contains(spoilt([](Params& p) { p.erase(kGate + ".biases"); }), kGate + ".weight is packed with 4 bits"));
  CHECK(contains(spoilt([](Params& p) {
                   p.at(kGate + ".scales") = mx::zeros({96, 3});
                 }),
                 kGate + ".scales has 3 groups a row"));
  CHECK(contains(spoilt([](Params& p) {
                   p.at(kGate + ".scales") = mx::zeros({95, 2});
                 }),
                 kGate + ".scales has shape [95, 2], config.json asks for [96, 2]"));
  CHECK(contains(spoilt([](Params& p) {
                   p.at(kGate + ".weight") = mx::zeros({96, 7}, mx::uint32);
                 }),
                 kGate + ".weight has 7 words a row"));
  CHECK(contains(spoilt([](Params& p) {
                   p.emplace("model.norm.scales", mx::zeros({2, 2}));
                 }),
                 "model.norm.scales"));
}

TEST_CASE("a saved model is packed as it was, or says that it is not") {
  const TempFolder source;
  const TempFolder target;
  write_model(source.path(), packed_model(kGroups));
  const auto kept = load_model(source.path(), "float32", PackedWeights::keep);
  save_model(target.path() / "kept", kept, kept.params, mx::bfloat16);
  const auto again = load_model(target.path() / "kept", "bfloat16", PackedWeights::keep);
  CHECK(again.packed == kept.packed);
  CHECK(same_bits(again.params.at(kGate + ".scales"), kept.params.at(kGate + ".scales")));

  const auto dense = load_model(source.path(), "float32", PackedWeights::unpack);
  save_model(target.path() / "dense", dense, dense.params);
  CHECK_FALSE(read_json(target.path() / "dense" / "config.json").contains("quantization"));
  CHECK(same_bits(load_model(target.path() / "dense", "float32").params, dense.params));
}

TEST_CASE("weights are cut into files of bounded size, and their index counts them") {
  const TempFolder folder;
  const auto model = tiny_model();
  write_json(folder.path() / "config.json", model.config);
  save_weights(folder.path(), model.params, num_parameters(model.spec), {}, 4000);
  const auto index = read_json(folder.path() / "model.safetensors.index.json");
  CHECK(index.at("metadata").at("total_size") == num_bytes(model.params));
  CHECK(index.at("metadata").at("total_parameters") == num_elements(model.params));
  CHECK(index.at("weight_map").size() == model.params.size());
  CHECK(std::filesystem::exists(folder.path() / "model-00001-of-00006.safetensors"));
  CHECK(same_bits(load_model(folder.path(), "float32").params, model.params));
}
