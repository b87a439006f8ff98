#include "temper/config/config_value.h"

#include <doctest/doctest.h>

#include "temper/base/error.h"

using namespace temper;

namespace {

std::string error_of(const std::string& yaml) {
  try {
    parse_yaml(yaml, "run.yaml");
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

Json resolved(const std::string& text) {
  return ConfigValue::of_text(text, "").to_json();
}

} // namespace

TEST_CASE("YAML keeps each value's line") {
  const ConfigValue value = parse_yaml("iters: 10\nlora_parameters:\n  rank: 4\n  keys: [a, b]\n", "run.yaml");
  REQUIRE(value.members.size() == 2);
  CHECK(value.members[0].value.where == "run.yaml:1");
  CHECK(value.members[1].value.members[0].value.where == "run.yaml:3");
  CHECK(value.to_json() == Json::parse(R"({"iters": 10, "lora_parameters": {"rank": 4, "keys": ["a", "b"]}})"));
}

TEST_CASE("unquoted scalars mean what mlx-lm's YAML loader makes of them, quoted ones are text") {
  CHECK(resolved("1e-5") == 1e-5);
  CHECK(resolved(".5") == 0.5);
  CHECK(resolved("-1") == -1);
  CHECK(resolved("1_000") == 1000);
  CHECK(resolved("True") == true);
  CHECK(resolved("off") == false);
  CHECK(resolved("null").is_null());
  CHECK(resolved("~").is_null());
  CHECK(resolved("1e-5x") == "1e-5x");
  CHECK(parse_yaml("a: '10'", "f").to_json() == Json{{"a", "10"}});
  CHECK(parse_yaml("a: \"null\"", "f").to_json() == Json{{"a", "null"}});
  CHECK(parse_yaml("a: |\n  two\n  lines\n", "f").to_json() == Json{{"a", "two\nlines\n"}});
  CHECK(parse_yaml("a:\nb: ~\n", "f").to_json() == Json{{"a", nullptr}, {"b", nullptr}});
}

TEST_CASE("YAML that can't be read names file and line") {
  CHECK(error_of("iters: 10\nbad: [1, 2\n").starts_with("run.yaml:"));
  CHECK(error_of("iters: 10\nbad: [1, 2\n").find("not valid YAML") != std::string::npos);
  CHECK(error_of("iters: 10\nseed: 1\niters: 20\n") ==
        "run.yaml:3: 'iters' is given twice, first at run.yaml:1");
  CHECK(error_of("? [a, b]\n: 1\n") == "run.yaml:1: a key must be a plain name");
  CHECK(error_of("iters: \t- 10: {").find("run.yaml:1") == 0);
}

TEST_CASE("an alias of its own parent does not recurse for ever") {
  CHECK(error_of("a: &x\n  b: *x\n").find("nested too deeply") != std::string::npos);
}

TEST_CASE("numbers and sizes") {
  Json integer;
  CHECK(parse_integer("18446744073709551615", integer));
  CHECK(integer == 18446744073709551615ULL);
  CHECK(parse_integer("-9223372036854775808", integer));
  CHECK(parse_integer("1e3", integer));
  CHECK(integer == 1000);
  for (const char* bad : {"", "-", "1.5", "ten", "99999999999999999999", "1 2", "0x10", "1e300"}) {
    CAPTURE(bad);
    CHECK_FALSE(parse_integer(bad, integer));
  }
  double number = 0;
  for (const char* bad : {"", "nan", "inf", "1e999", "1,5", "--1", "1e"}) {
    CAPTURE(bad);
    CHECK_FALSE(parse_number(bad, number));
  }
  std::uint64_t bytes = 0;
  CHECK(parse_bytes("1500000", bytes));
  CHECK(bytes == 1500000);
  CHECK(parse_bytes("1.5G", bytes));
  CHECK(bytes == 1500000000);
  CHECK(parse_bytes("500 mb", bytes));
  CHECK(bytes == 500000000);
  CHECK(parse_bytes("2GiB", bytes));
  CHECK(bytes == 2147483648);
  for (const char* bad : {"", "GB", "-1", "1X", "1e30", "99999999999TB"}) {
    CAPTURE(bad);
    CHECK_FALSE(parse_bytes(bad, bytes));
  }
}
