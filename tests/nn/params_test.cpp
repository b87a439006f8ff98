#include "temper/nn/params.h"

#include "nn/support.h"
#include "temper/base/error.h"

using namespace temper;
using namespace temper::test;

namespace {

Params sample() {
  return {{"b", mx::ones({2, 3})}, {"a", mx::zeros({4}, mx::float16)}};
}

} // namespace

TEST_CASE("values and with_values are each other's inverse, in name order") {
  const auto params = sample();
  const auto arrays = values(params);
  REQUIRE(arrays.size() == 2);
  CHECK(arrays[0].shape() == mx::Shape{4});
  CHECK(same_bits(with_values(params, arrays), params));

  Arrays longer{mx::array(9)};
  longer.insert(longer.end(), arrays.begin(), arrays.end());
  CHECK(same_bits(with_values(params, longer, 1), params));
  CHECK_THROWS_AS(with_values(params, longer, 2), std::out_of_range);
}

TEST_CASE("sizes are summed") {
  CHECK(num_elements(sample()) == 10);
  CHECK(num_bytes(sample()) == 6 * 4 + 4 * 2);
}

TEST_CASE("a view finds trainable tensors first and names what is missing") {
  const auto frozen = sample();
  const Params trainable{{"a", mx::ones({1})}, {"c", mx::ones({7})}};
  const ParamView view(frozen, &trainable);
  CHECK(view.at("a").shape() == mx::Shape{1});
  CHECK(view.at("b").shape() == mx::Shape{2, 3});
  CHECK(view.at("c").shape() == mx::Shape{7});
  CHECK(view.find("d") == nullptr);
  CHECK(contains(message_of<ModelError>([&] { view.at("layers.3.weight"); }), "layers.3.weight"));
}

TEST_CASE("dtypes have names") {
  for (const auto dtype : {mx::float32, mx::float16, mx::bfloat16}) {
    CHECK(dtype_from_name(dtype_name(dtype)) == dtype);
  }
  CHECK(dtype_name(mx::int32) == "int32");
  CHECK(contains(message_of<ConfigError>([] { dtype_from_name("float8"); }), "float8"));
  CHECK(shape_text({2, 3}) == "[2, 3]");
  CHECK(shape_text({}) == "[]");
}
