#include "temper/text/stop_strings.h"

#include <doctest/doctest.h>

#include "temper/base/error.h"

namespace temper {
namespace {

// What comes out when `text` arrives in pieces of `size` bytes.
std::string pass(const std::vector<std::string>& stops, const std::string& text, std::size_t size) {
  StopStrings matcher(stops);
  std::string out;
  for (std::size_t i = 0; i < text.size(); i += size) {
    out += matcher.add(text.substr(i, size));
  }
  return out + matcher.finish();
}

TEST_CASE("text ends before the first stop string, however it is cut into pieces") {
  for (std::size_t size = 1; size < 12; ++size) {
    CAPTURE(size);
    CHECK(pass({"User:"}, "Hello.\nUser: more", size) == "Hello.\n");
    CHECK(pass({"\n\n", "###"}, "a\nb##c\n\nd", size) == "a\nb##c");
    CHECK(pass({"aab"}, "aaaab!", size) == "aa");
    CHECK(pass({"never"}, "nothing neve", size) == "nothing neve");
    CHECK(pass({}, "all of it", size) == "all of it");
    CHECK(pass({"ʻoe"}, "Pehea ʻoe?", size) == "Pehea ");
  }
}

TEST_CASE("only what may become a stop string is kept back") {
  StopStrings matcher({"User:"});
  CHECK(matcher.add("Hello U") == "Hello ");
  CHECK(matcher.add("s") == "");
  CHECK(matcher.add("ual") == "Usual");
  CHECK_FALSE(matcher.stopped());
  CHECK(matcher.add("User") == "");
  CHECK(matcher.add(": x") == "");
  CHECK(matcher.stopped());
  CHECK(matcher.add("more") == "");
  CHECK(matcher.finish() == "");
}

TEST_CASE("an empty stop string is a ConfigError") {
  CHECK_THROWS_AS(StopStrings({"a", ""}), ConfigError);
}

} // namespace
} // namespace temper
