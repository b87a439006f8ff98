// From the hub's layout and back, for every family's fixture.
#include "temper/models/weight_layout.h"

#include "models/families.h"
#include "nn/support.h"
#include "temper/models/registry.h"

using namespace temper;
using namespace temper::test;

namespace {

const WeightLayout& layout_of(const DecoderSpec& spec) {
  return find_family(spec.model_type, spec.model_type).layout;
}

Params stored_of(const std::string& name) {
  return load_safetensors(kFamilyFixtures / name / "model.safetensors");
}

} // namespace

TEST_CASE("what is exported is imported as the same parameters, for every family") {
  for (const auto& name : family_names()) {
    CAPTURE(name);
    const auto model = load_model(kFamilyFixtures / name, "float32", PackedWeights::unpack);
    const auto& layout = layout_of(model.spec);
    const auto exported = export_weights(layout, model.spec, model.params);
    CHECK(same_bits(import_weights(layout, model.spec, exported, name), model.params));
  }
}

TEST_CASE("a checkpoint of the hub that was imported is exported as it was, for every family") {
  for (const auto& name : family_names()) {
    CAPTURE(name);
    if (name == "gpt_oss_mxfp4") {
      continue; // exported unpacked
    }
    const auto stored = stored_of(name);
    const auto spec = load_spec(kFamilyFixtures / name);
    const auto& layout = layout_of(spec);
    auto written = export_weights(layout, spec, import_weights(layout, spec, stored, name));
    for (const auto& [tensor, array] : left_out_weights(layout, stored)) {
      CHECK(written.emplace(tensor, array).second);
    }
    REQUIRE(written.size() == stored.size());
    for (const auto& [tensor, array] : stored) {
      CAPTURE(tensor);
      REQUIRE(written.contains(tensor));
      CHECK(same_bits(mx::astype(written.at(tensor), array.dtype()), array));
    }
  }
}

TEST_CASE("mxfp4's experts are exported as the bf16 checkpoints have them") {
  const auto model = load_model(kFamilyFixtures / "gpt_oss_mxfp4", "float32", PackedWeights::unpack);
  const auto exported = export_weights(layout_of(model.spec), model.spec, model.params);
  for (const auto& [tensor, array] : stored_of("gpt_oss")) {
    CAPTURE(tensor);
    REQUIRE(exported.contains(tensor));
    CHECK(exported.at(tensor).ndim() == array.ndim());
  }
  CHECK(exported.size() == stored_of("gpt_oss").size());
}
