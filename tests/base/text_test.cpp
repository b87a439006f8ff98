#include "temper/base/text.h"

#include <doctest/doctest.h>

using namespace temper;

TEST_CASE("lower case is ASCII's, whatever the locale") {
  CHECK(lower("Q4_K_M Zz@[`{") == "q4_k_m zz@[`{");
  CHECK(lower("\xc3\x89T\xc9") == "\xc3\x89t\xc9");
  CHECK(lower("").empty());
}

TEST_CASE("space is cut at both ends only") {
  CHECK(trim_ascii(" \t a b\r\n") == "a b");
  CHECK(trim_ascii(" \n\t ").empty());
  CHECK(trim_ascii("").empty());
  CHECK(trim_ascii("x") == "x");
}

TEST_CASE("a whole number is digits and nothing else") {
  CHECK(whole_number("0") == 0);
  CHECK(whole_number("9223372036854775807") == 9223372036854775807);
  for (const char* other : {"", "-1", "+1", " 1", "1 ", "1x", "x", "1.0", "0x10", "9223372036854775808"}) {
    CAPTURE(other);
    CHECK_FALSE(whole_number(other));
  }
}

TEST_CASE("bytes are written as two digits each") {
  CHECK(to_hex(std::string_view("\x00\x0f\xf0\xff", 4)) == "000ff0ff");
  CHECK(to_hex("").empty());
}
