#include "temper/io/model_folder.h"

#include "io/tiny_model.h"
#include "temper/base/error.h"
#include "temper/base/files.h"

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
