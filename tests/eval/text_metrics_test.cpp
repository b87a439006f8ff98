// BLEU and chrF against sacrebleu: tests/golden/make_metric_fixtures.py made the fixtures.
#include "temper/eval/text_metrics.h"

#include <doctest/doctest.h>

#include <filesystem>

#include "temper/base/error.h"
#include "temper/base/json.h"

using namespace temper;

namespace {

using Texts = std::vector<std::string>;

const Json& fixtures() {
  static const Json kFixtures =
      read_json(std::filesystem::path(TEMPER_TEST_DATA) / "metrics" / "sacrebleu.json");
  return kFixtures;
}

} // namespace

TEST_CASE("13a tokens agree with sacrebleu's") {
  REQUIRE(fixtures().at("tokens").size() > 10);
  for (const auto& entry : fixtures().at("tokens")) {
    const auto text = entry.at("text").get<std::string>();
    CAPTURE(text);
    CHECK(tokenize_13a(text) == entry.at("tokens").get<Texts>());
  }
}

TEST_CASE("BLEU, chrF and chrF++ agree with sacrebleu's") {
  REQUIRE(fixtures().at("corpora").size() > 10);
  for (const auto& corpus : fixtures().at("corpora")) {
    const auto answers = corpus.at("answers").get<Texts>();
    const auto references = corpus.at("references").get<Texts>();
    for (const std::string metric : {"bleu", "chrf", "chrf++"}) {
      CAPTURE(corpus.at("name").get<std::string>());
      CAPTURE(metric);
      CHECK(compute_metric(metric, answers, references) ==
            doctest::Approx(corpus.at(metric).get<double>()).epsilon(1e-9));
    }
  }
}

TEST_CASE("exact match counts answers that equal their reference but for outer white space") {
  CHECK(exact_match({"a", " b\n", "c d", "D"}, {"a", "b", "c  d", "d"}) == doctest::Approx(50));
  CHECK(exact_match({"\xC2\xA0x\xE3\x80\x80"}, {"x"}) == doctest::Approx(100));
  CHECK(exact_match({}, {}) == 0);
}

TEST_CASE("metrics refuse unequal counts and unknown names") {
  CHECK_THROWS_WITH_AS(bleu({"a"}, {}), "metrics: 1 answers but 0 references; each answer needs one",
                       ConfigError);
  CHECK_THROWS_WITH_AS(compute_metric("rouge", {}, {}),
                       "metrics: rouge is unknown; choose from exact, bleu, chrf, chrf++", ConfigError);
  for (const auto& name : metric_names()) {
    CHECK_NOTHROW(compute_metric(name, {"a"}, {"a"}));
  }
}

TEST_CASE("metrics take bytes that are not UTF-8") {
  CHECK(chrf({"\xFF\xFE ok \xE6"}, {"\xFF\xFE ok \xE6"}) == doctest::Approx(100));
  CHECK(bleu({"\xFF a b c d"}, {"\xFF a b c d"}) == doctest::Approx(100));
}
