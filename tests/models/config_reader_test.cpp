#include "temper/models/config_reader.h"

#include <doctest/doctest.h>

#include <functional>

#include "temper/base/error.h"
#include "temper/base/log.h"

using namespace temper;

namespace {

const Json kConfig = Json::parse(R"({
  "whole": 3, "negative": -2, "zero": 0, "huge": 4294967296, "real": 0.5, "text": "yes", "flag": true,
  "nothing": null, "object": {"a": 1}, "list": [1]
})");

// The complaint of `read`, "" if there is none.
std::string complaint(const std::function<void(ConfigReader&)>& read) {
  ConfigReader reader(kConfig, "model/config.json");
  try {
    read(reader);
  } catch (const ModelError& error) {
    CHECK(std::string(error.what()).starts_with("model/config.json: "));
    return error.what();
  }
  return "";
}

bool names(const std::string& message, const std::string& part) {
  return message.find(part) != std::string::npos;
}

} // namespace

TEST_CASE("values of their types are read; absent and null ones fall back") {
  ConfigReader reader(kConfig, "model/config.json");
  CHECK(reader.integer("whole") == 3);
  CHECK(reader.integer("negative", 7) == -2);
  CHECK(reader.integer("absent", 7) == 7);
  CHECK(reader.integer("nothing", 7) == 7);
  CHECK(reader.positive("whole") == 3);
  CHECK(reader.number("real", 1.0F) == 0.5F);
  CHECK(reader.number("whole", 1.0F) == 3.0F);
  CHECK(reader.number("nothing", 1.0F) == 1.0F);
  CHECK(reader.boolean("flag", false));
  CHECK(reader.boolean("absent", true));
  CHECK(reader.text("text", "no") == "yes");
  CHECK(reader.text("absent", "no") == "no");
  CHECK(reader.object("object")->at("a") == 1);
  CHECK(reader.object("nothing") == nullptr);
  CHECK(reader.object("absent") == nullptr);
}

TEST_CASE("missing keys and wrong types are named, with the value found") {
  CHECK(names(complaint([](auto& r) { r.integer("absent"); }), "absent is missing"));
  CHECK(names(complaint([](auto& r) { r.integer("nothing"); }), "nothing is missing"));
  CHECK(names(complaint([](auto& r) { r.integer("text"); }), "text must be a whole number, but is \"yes\""));
  CHECK(names(complaint([](auto& r) { r.integer("real"); }), "real must be a whole number, but is 0.5"));
  CHECK(names(complaint([](auto& r) { r.integer("huge"); }), "huge must be a whole number"));
  CHECK(names(complaint([](auto& r) { r.positive("zero"); }), "zero must be at least 1, but is 0"));
  CHECK(names(complaint([](auto& r) { r.number("text", 0.0F); }), "text must be a number"));
  CHECK(names(complaint([](auto& r) { r.text("whole", ""); }), "whole must be text, but is 3"));
  CHECK(names(complaint([](auto& r) { r.object("list"); }), "list must be an object, but is [1]"));
}

TEST_CASE("true is no number and 1 is no truth value") {
  CHECK(names(complaint([](auto& r) { r.integer("flag"); }), "flag must be a whole number, but is true"));
  CHECK(names(complaint([](auto& r) { r.integer("flag", 1); }), "flag must be a whole number"));
  CHECK(names(complaint([](auto& r) { r.number("flag", 1.0F); }), "flag must be a number"));
  CHECK(names(complaint([](auto& r) { r.boolean("whole", false); }), "whole must be true or false, but is 3"));
  CHECK(names(complaint([](auto& r) { r.boolean("text", false); }), "text must be true or false"));
}

TEST_CASE("a key may be held to the values that are supported") {
  CHECK(complaint([](auto& r) { r.expect("whole", {1, 3}); }).empty());
  CHECK(complaint([](auto& r) { r.expect("absent", {1}); }).empty());
  CHECK(complaint([](auto& r) { r.expect("nothing", {1}); }).empty());
  CHECK(names(complaint([](auto& r) { r.expect("text", {"no"}); }), "text: \"yes\" is not supported"));
}

TEST_CASE("keys that were neither read nor ignored are warned of in one line") {
  std::string lines;
  log::set_writer([&](std::string_view line) { lines += std::string(line) + "\n"; });
  {
    ConfigReader reader(kConfig, "here/config.json");
    reader.integer("whole");
    reader.ignore({"negative", "zero", "huge", "real", "text", "flag", "nothing", "list"});
    reader.warn_unknown();
    CHECK(lines.find("here/config.json") != std::string::npos);
    CHECK(lines.find(": object\n") != std::string::npos);
    lines.clear();
    reader.object("object");
    reader.warn_unknown();
    CHECK(lines.empty());
  }
  log::set_writer(nullptr);
}

TEST_CASE("a config that is no object is refused") {
  const Json list = Json::array();
  CHECK_THROWS_AS(ConfigReader(list, "config.json"), ModelError);
}
