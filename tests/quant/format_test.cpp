#include "temper/quant/format.h"

#include <doctest/doctest.h>

#include "nn/support.h"
#include "temper/base/error.h"

using namespace temper;
using namespace temper::test;

TEST_CASE("a mode brings its usual bits and group size") {
  CHECK(make_quant_format("affine") == QuantFormat{"affine", 4, 64});
  CHECK(make_quant_format("affine", 3) == QuantFormat{"affine", 3, 64});
  CHECK(make_quant_format("mxfp4") == QuantFormat{"mxfp4", 4, 32});
  CHECK(make_quant_format("nvfp4") == QuantFormat{"nvfp4", 4, 16});
  CHECK(make_quant_format("mxfp8") == QuantFormat{"mxfp8", 8, 32});
}

TEST_CASE("modes, bits and group sizes that there are not are refused with the choices") {
  const auto complaint = [](const std::string& mode, std::optional<int> bits, std::optional<int> group) {
    return message_of<ConfigError>([&] { make_quant_format(mode, bits, group); });
  };
  CHECK(contains(complaint("gptq", {}, {}), "gptq is not one of affine, mxfp4, nvfp4, mxfp8"));
  CHECK(contains(complaint("affine", 7, {}), "affine has no bits 7; it has 4, 2, 3, 5, 6, 8"));
  CHECK(contains(complaint("mxfp4", {}, 64), "mxfp4 has no group_size 64; it has 32"));
}

TEST_CASE("a layer whose rows are not whole groups is named, with what would fit") {
  check_fits({"affine", 4, 64}, "up", 128);
  const auto message = message_of<ModelError>([] { check_fits({"affine", 4, 64}, "up", 96); });
  CHECK(contains(message, "up"));
  CHECK(contains(message, "96"));
  CHECK(contains(message, "group sizes that fit: 32"));
  CHECK(contains(message_of<ModelError>([] {
                   check_fits({"nvfp4", 4, 16}, "up", 24);
                 }),
                 "no group size that fits"));
}

TEST_CASE("bits a weight count the scales") {
  CHECK(bits_per_weight({"affine", 4, 64}) == doctest::Approx(4.5));
  CHECK(bits_per_weight({"affine", 3, 32}) == doctest::Approx(4.0));
  CHECK(bits_per_weight({"mxfp4", 4, 32}) == doctest::Approx(4.25));
  CHECK(bits_per_weight({"nvfp4", 4, 16}) == doctest::Approx(4.5));
}
