// The step as it runs outside the tests: compiled. Alone in its program, since kernels take seconds to build.
#include "train/support.h"

using namespace temper;
using namespace temper::test;

namespace {

Params train(bool compiled) {
  compiled ? mx::enable_compile() : mx::disable_compile();
  Setting setting(2);
  setting.model = tiny_model({{"num_hidden_layers", 1}});
  setting.keys = {"self_attn.v_proj"};
  setting.step = step_options("sgd", 0.2F);
  setting.step.attention.reset(); // as a run chooses it
  Training training(std::move(setting));
  training.run();
  Params found = training.state().trainable;
  found.emplace("loss", mx::array(static_cast<float>(training.record().steps.back().loss)));
  return found;
}

} // namespace

TEST_CASE("compiled steps compute what uncompiled ones do") {
  const auto plain = train(false);
  const auto compiled = train(true);
  REQUIRE(plain.size() == compiled.size());
  for (const auto& [name, array] : plain) {
    CAPTURE(name);
    CHECK(relative_difference(compiled.at(name), array) < 1e-4F);
  }
}
