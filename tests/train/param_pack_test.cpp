#include "temper/train/param_pack.h"

#include "nn/support.h"

using namespace temper;
using namespace temper::test;

namespace {

Params some_params() {
  return {{"a.lora_a", randn({4, 2}, "a")},
          {"a.m", randn({5}, "m")},
          {"b.lora_a", randn({3, 2}, "b")},
          {"whole", randn({2, 2}, "whole")}};
}

std::string kind(const std::string& name, const mx::array&) {
  return name == "whole" ? "" : "elementwise";
}

} // namespace

TEST_CASE("packs hold parameters of a kind end to end, and give them back") {
  const auto params = some_params();
  ParamPack packs(params, kind);
  REQUIRE(packs.size() == 3); // matrices, vectors, the one that is taken whole
  Params back;
  for (std::size_t i = 0; i < packs.size(); ++i) {
    const auto array = packs.pack(i, params);
    CHECK(array.ndim() == params.at(packs.names(i)[0]).ndim());
    packs.unpack(i, array, back);
  }
  CHECK(same_bits(back, params));
}

TEST_CASE("a pack is not copied where its views come back, and made anew where one was replaced") {
  auto params = some_params();
  ParamPack packs(params, kind);
  const auto array = packs.pack(0, params);
  packs.unpack(0, array, params);
  CHECK(packs.pack(0, params).id() == array.id());
  params.at("b.lora_a") = mx::zeros({3, 2});
  const auto fresh = packs.pack(0, params);
  CHECK(fresh.id() != array.id());
  CHECK(same_bits(packs.split(0, fresh)[1], mx::zeros({3, 2})));
}

TEST_CASE("flags of a pack's elements tell whose are all set") {
  const auto params = some_params();
  const ParamPack packs(params, kind);
  std::vector<mx::array> flags;
  for (std::size_t i = 0; i < packs.size(); ++i) {
    std::vector<mx::array> parts;
    for (const auto& name : packs.names(i)) {
      auto part = mx::ones(params.at(name).shape(), mx::bool_);
      parts.push_back(name == "b.lora_a" ? mx::logical_not(part) : part);
    }
    flags.push_back(packs.join(i, parts));
  }
  auto found = packs.all_set(flags);
  mx::eval(found);
  REQUIRE(found.shape() == mx::Shape{4});
  for (int i = 0; i < 4; ++i) {
    CHECK(found.data<bool>()[i] == (i != 2)); // by name: a.lora_a, a.m, b.lora_a, whole
  }
}
