// The Llama family against transformers: tests/golden/make_llama_fixtures.py made the fixtures.
#include <doctest/doctest.h>

#include <filesystem>

#include "models/mean_loss.h"
#include "temper/io/model_folder.h"
#include "temper/io/safetensors.h"

using namespace temper;
using namespace temper::test;

namespace {

const std::filesystem::path kFixtures = std::filesystem::path(TEMPER_TEST_DATA) / "llama";
const char* const kFolders[] = {"llama2",   "llama32", "mistral", "linear", "dynamic", "yarn",
                                "yarn_old", "biases",  "sharded", "fp16",   "bf16"};

float max_difference(const mx::array& a, const mx::array& b) {
  return mx::max(mx::abs(mx::astype(a, mx::float32) - mx::astype(b, mx::float32))).item<float>();
}

} // namespace

TEST_CASE("logits agree with transformers to 1e-4 in fp32") {
  for (const std::string name : kFolders) {
    CAPTURE(name);
    const auto model = load_model(kFixtures / name, "float32");
    const auto expected = load_safetensors(kFixtures / name / "expected.safetensors");
    CHECK(max_difference(logits(model, expected.at("input_ids")), expected.at("logits")) < 1e-4F);
  }
}

TEST_CASE("dynamic rope leaves texts within the trained length alone") {
  const auto model = load_model(kFixtures / "dynamic", "float32");
  const auto expected = load_safetensors(kFixtures / "dynamic" / "short.safetensors");
  CHECK(max_difference(logits(model, expected.at("input_ids")), expected.at("logits")) < 1e-4F);
}

TEST_CASE("loss and gradients agree with torch, checkpointing on and off") {
  for (const std::string name : kFolders) {
    for (const bool checkpoint : {false, true}) {
      CAPTURE(name);
      CAPTURE(checkpoint);
      const auto model = load_model(kFixtures / name, "float32");
      const auto expected = load_safetensors(kFixtures / name / "expected.safetensors");
      mx::eval(values(expected));
      std::vector<int> all(model.params.size());
      for (std::size_t i = 0; i < all.size(); ++i) {
        all[i] = static_cast<int>(i);
      }
      const auto tokens = expected.at("input_ids");
      auto [loss, gradients] = mx::value_and_grad(
          std::function<mx::array(const std::vector<mx::array>&)>([&](const std::vector<mx::array>& in) {
            return mean_loss(model.spec, ParamView(with_values(model.params, in)), tokens, checkpoint);
          }),
          all)(values(model.params));
      CHECK(loss.item<float>() == doctest::Approx(expected.at("loss").item<float>()).epsilon(1e-5));
      const auto by_name = with_values(model.params, gradients);
      int compared = 0;
      for (const auto& [key, gradient] : expected) {
        if (key.starts_with("grad.")) {
          CAPTURE(key);
          const auto largest = mx::max(mx::abs(gradient)).item<float>();
          CHECK(max_difference(by_name.at(key.substr(5)), gradient) < 1e-4F * largest + 1e-7F);
          ++compared;
        }
      }
      CHECK(compared >= 8);
    }
  }
}
