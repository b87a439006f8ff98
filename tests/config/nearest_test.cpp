#include "temper/config/nearest.h"

#include <doctest/doctest.h>

using namespace temper;

TEST_CASE("edit distance counts insertions, deletions, substitutions and swaps") {
  CHECK(edit_distance("", "") == 0);
  CHECK(edit_distance("", "abc") == 3);
  CHECK(edit_distance("iters", "iters") == 0);
  CHECK(edit_distance("itres", "iters") == 1);
  CHECK(edit_distance("learing_rate", "learning_rate") == 1);
  CHECK(edit_distance("kitten", "sitting") == 3);
}

TEST_CASE("the nearest name is offered only if it is near") {
  const std::vector<std::string> names = {"learning_rate", "batch_size", "lora_parameters.rank", "iters"};
  CHECK(nearest("learing_rate", names) == "learning_rate");
  CHECK(nearest("batchsize", names) == "batch_size");
  CHECK(nearest("itesr", names) == "iters");
  CHECK(nearest("rank", names) == "lora_parameters.rank");
  CHECK(nearest("colour", names).empty());
  CHECK(did_you_mean("colour", names).empty());
  CHECK(did_you_mean("itesr", names) == "; did you mean 'iters'?");
}
