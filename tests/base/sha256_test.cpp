#include "temper/base/sha256.h"

#include <doctest/doctest.h>

#include <algorithm>

using temper::Sha256;

TEST_CASE("SHA-256 of FIPS 180-4's examples") {
  CHECK(Sha256().hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(Sha256().add("abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(Sha256().add("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq").hex() ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(Sha256().add(std::string(1000000, 'a')).hex() ==
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("SHA-256 does not depend on how the bytes come") {
  std::string bytes;
  for (int i = 0; i < 300; ++i) {
    bytes += static_cast<char>(i * 7);
  }
  const auto whole = Sha256().add(bytes).hex();
  for (std::size_t step = 1; step < 130; ++step) {
    Sha256 sum;
    for (std::size_t at = 0; at < bytes.size(); at += step) {
      sum.add(std::string_view(bytes).substr(at, step));
    }
    CHECK(sum.hex() == whole);
  }
}
