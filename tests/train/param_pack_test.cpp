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
  const PackedParams params(some_params());
  const auto packs = std::make_shared<const ParamPack>(params, kind);
  REQUIRE(packs->size() == 3); // matrices, vectors, the one that is taken whole
  PackedParams back;
  for (std::size_t i = 0; i < packs->size(); ++i) {
    const auto array = params.packed(packs, i, "");
    CHECK(array.ndim() == params.at(packs->names(i)[0]).ndim());
    back.set(packs, i, array);
  }
  CHECK(back.arrays().size() == 3);
  CHECK(same_bits(back, params));
}

TEST_CASE("a pack's array stays what it is until a parameter is changed") {
  PackedParams params(some_params());
  const auto packs = std::make_shared<const ParamPack>(params, kind);
  const auto array = params.packed(packs, 0);
  params.set(packs, 0, array);
  CHECK(same_bits(params, some_params())); // which makes views
  CHECK(params.packed(packs, 0).id() == array.id());
  const auto others = std::make_shared<const ParamPack>(params, kind);
  CHECK(params.packed(others, 0).id() != array.id());

  params.edit().at("b.lora_a") = mx::zeros({3, 2});
  const auto fresh = params.packed(packs, 0);
  CHECK(fresh.id() != array.id());
  CHECK(same_bits(packs->split(0, fresh)[1], mx::zeros({3, 2})));
}

TEST_CASE("packed parameters lie under a prefix, add up, and are told from none") {
  const auto packs = std::make_shared<const ParamPack>(some_params(), kind);
  const auto made = [&](const std::string& prefix) {
    PackedParams params;
    CHECK(params.empty());
    for (std::size_t i = 0; i < packs->size(); ++i) {
      params.set(packs, i, PackedParams(some_params()).packed(packs, i), prefix);
    }
    CHECK_FALSE(params.empty());
    return params;
  };
  CHECK(made("m.").contains("m.a.lora_a"));
  const auto doubled = [](const mx::array& x) { return x + x; };
  auto packed = made("");
  packed.add(made(""));
  PackedParams plain(some_params());
  plain.add(made("")); // of which one lies in packs and one does not
  for (const auto& [name, array] : some_params()) {
    CHECK(same_bits(packed.at(name), doubled(array)));
    CHECK(same_bits(plain.at(name), doubled(array)));
  }
  packed.clear();
  CHECK(packed.empty());
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
