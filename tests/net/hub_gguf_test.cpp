#include "temper/net/hub_gguf.h"

#include <doctest/doctest.h>

#include "temper/base/error.h"
#include "text/fixtures.h"

using namespace temper;
using test::message_of;

namespace {

const std::vector<std::string> kNames{"README.md",        "m-Q4_K_M.gguf",   "m.q8_0.GGUF",
                                      "m-IQ4_K_M.gguf",   "mmproj-F16.gguf", "bf16/m-BF16-00001-of-00002.gguf",
                                      "model.safetensors"};

std::string refusal(const std::vector<std::string>& names, const std::string& wanted) {
  return message_of<ModelError>([&] { choose_gguf(names, wanted, "o/m"); });
}

} // namespace

TEST_CASE("a model's name is cut from the file that it asks for") {
  const auto cut = [](const char* text) {
    const auto name = split_gguf_name(text);
    return name.name + " " + name.wanted;
  };
  CHECK(cut("org/name") == "org/name ");
  CHECK(cut("org/name@v1") == "org/name@v1 ");
  CHECK(cut("org/name:Q4_0") == "org/name Q4_0");
  CHECK(cut("org/name:Q4_0@v1") == "org/name@v1 Q4_0");
  CHECK(cut("org/name@v1:Q4_0") == "org/name@v1 Q4_0");
  CHECK(cut("hf://org/name") == "hf://org/name ");
  CHECK(cut("hf://org/name:sub/a.gguf") == "hf://org/name sub/a.gguf");
}

TEST_CASE("a GGUF file is found by its name or by the type at its end") {
  CHECK(choose_gguf(kNames, "Q4_K_M", "o/m") == "m-Q4_K_M.gguf");
  CHECK(choose_gguf(kNames, "q4_k_m", "o/m") == "m-Q4_K_M.gguf");
  CHECK(choose_gguf(kNames, "Q8_0", "o/m") == "m.q8_0.GGUF");
  CHECK(choose_gguf(kNames, "m-IQ4_K_M.gguf", "o/m") == "m-IQ4_K_M.gguf");
  CHECK(choose_gguf({"mmproj-F16.gguf", "sub/only.gguf"}, "", "o/m") == "sub/only.gguf");
  CHECK(choose_gguf({"sub/only.gguf"}, "sub/only.gguf", "o/m") == "sub/only.gguf");
  CHECK(find_gguf(kNames, "").size() == 4);
}

TEST_CASE("no file, several and one in parts are refused with what there is") {
  CHECK(refusal({"config.json"}, "") == "o/m: there is no GGUF file");
  CHECK(refusal(kNames, "Q5_0") ==
        "o/m: no GGUF file is called 'Q5_0'; there are bf16/m-BF16-00001-of-00002.gguf, m-IQ4_K_M.gguf, "
        "m-Q4_K_M.gguf, m.q8_0.GGUF");
  CHECK(refusal({"b.gguf", "a.gguf"}, "") ==
        "o/m: there are several GGUF files: a.gguf, b.gguf; name one as o/m:a.gguf");
  CHECK(refusal(kNames, "bf16").starts_with("o/m: bf16/m-BF16-00001-of-00002.gguf is one of 2 parts"));
  std::vector<std::string> many;
  for (int i = 10; i < 40; ++i) {
    many.push_back(std::to_string(i) + ".gguf");
  }
  CHECK(refusal(many, "").find(" and 10 more; name one") != std::string::npos);
}
