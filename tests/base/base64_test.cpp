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

TEST_CASE("what was encoded is decoded") {
  std::string bytes;
  for (int i = 0; i < 300; ++i) {
    CHECK(decode_base64(encode_base64(bytes)) == bytes);
    bytes += static_cast<char>(i * 7);
  }
}

TEST_CASE("decoding ends where base64 does") {
  CHECK(decode_base64("").empty());
  CHECK(decode_base64("Zm9v") == "foo");
  CHECK(decode_base64("Zm8=Zm8=") == "fo");
  CHECK(decode_base64("Zm9v Zm9v") == "foo");
}
