#include "temper/base/base64.h"

#include <doctest/doctest.h>

using namespace temper;

TEST_CASE("the examples of RFC 4648") {
  CHECK(encode_base64("").empty());
  CHECK(encode_base64("f") == "Zg==");
  CHECK(encode_base64("fo") == "Zm8=");
  CHECK(encode_base64("foo") == "Zm9v");
  CHECK(encode_base64("foobar") == "Zm9vYmFy");
  CHECK(encode_base64(std::string_view("\xff\x00\xfe", 3)) == "/wD+");
}
