#include "temper/quant/quant_config.h"

#include <doctest/doctest.h>

#include "nn/support.h"
#include "temper/base/error.h"

using namespace temper;
using namespace temper::test;

namespace {

QuantConfig read(const Json& quantization, const char* key = "quantization") {
  return read_quant_config({{"model_type", "llama"}, {key, quantization}}, "config.json");
}

std::string complaint(const Json& quantization, const char* key = "quantization") {
  return message_of<ModelError>([&] { read(quantization, key); });
}

const Json kFourBits{{"group_size", 64}, {"bits", 4}};

} // namespace

TEST_CASE("a config without quantization packs nothing") {
  CHECK_FALSE(read_quant_config({{"model_type", "llama"}}, "config.json").base);
  CHECK_FALSE(read(nullptr).base);
  CHECK(to_json(QuantConfig{}).is_null());
}

TEST_CASE("mlx-lm's object: a default, and layers that differ from it") {
  auto json = kFourBits;
  json["model.layers.0.mlp.down_proj"] = {{"group_size", 32}, {"bits", 6}};
  json["model.layers.1.mlp.gate"] = false;
  json["model.layers.1.mlp.up_proj"] = true;
  json["lm_head"] = {{"mode", "mxfp8"}};
  const auto read_back = read(json);
  CHECK(read_back.base == QuantFormat{"affine", 4, 64});
  CHECK(read_back.layers.at("model.layers.0.mlp.down_proj") == QuantFormat{"affine", 6, 32});
  CHECK_FALSE(read_back.layers.at("model.layers.1.mlp.gate").has_value());
  CHECK(read_back.layers.at("model.layers.1.mlp.up_proj") == read_back.base);
  CHECK(read_back.layers.at("lm_head") == QuantFormat{"mxfp8", 8, 32});
  CHECK(read(to_json(read_back)) == read_back);
  CHECK(read(json, "quantization_config") == read_back);
}

TEST_CASE("a model within a model may carry the description") {
  const Json config{{"text_config", {{"quantization", kFourBits}}}};
  CHECK(read_quant_config(config, "config.json").base == QuantFormat{"affine", 4, 64});
}

TEST_CASE("of other tools' methods gpt-oss' mxfp4 alone is read") {
  CHECK(
      read({{"quant_method", "mxfp4"}, {"modules_to_not_convert", {"lm_head"}}}, "quantization_config").base ==
      QuantFormat{"mxfp4", 4, 32});
  for (const char* method : {"gptq", "awq", "bitsandbytes", "compressed-tensors", "fp8"}) {
    const auto message = complaint({{"quant_method", method}, {"bits", 4}}, "quantization_config");
    CHECK(contains(message, "config.json: quantization_config: quant_method " + std::string(method)));
    CHECK(contains(message, "take the unquantized model"));
  }
}

TEST_CASE("values that make no format are refused with their place") {
  CHECK(contains(complaint(4), "config.json: quantization: must be an object"));
  CHECK(contains(complaint({{"bits", "four"}}), "bits must be a whole number"));
  CHECK(contains(complaint({{"bits", 7}}), "affine has no bits 7"));
  CHECK(contains(complaint({{"mode", 1}}), "mode must be text"));
  CHECK(contains(complaint({{"mode", "nf4"}}), "nf4 is not one of"));
  auto json = kFourBits;
  json["lm_head"] = {{"bits", 4}, {"group_size", 48}};
  CHECK(contains(complaint(json), "quantization: lm_head: quantization mode affine has no group_size 48"));
  json["lm_head"] = {{"mode", "nvfp4"}, {"global_scale", true}};
  CHECK(contains(complaint(json), "lm_head: global_scale is not supported"));
}
