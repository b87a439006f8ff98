#include "temper/data/split_batch.h"

#include <doctest/doctest.h>

#include "temper/data/token_dataset.h"

using namespace temper;

namespace {

std::shared_ptr<const TokenDataset> data_of(std::size_t count, std::size_t length) {
  Example example;
  example.tokens.assign(length, 5);
  example.supervised.assign(length, 1);
  return make_token_dataset(std::vector<Example>(count, example));
}

std::int64_t usual(std::size_t length, int batch_size, std::int64_t batch_tokens = 0, bool compat = false) {
  LoaderOptions options;
  options.batch_size = batch_size;
  options.batch_tokens = batch_tokens;
  options.compat_mlx_lm = compat;
  return usual_micro_batch_tokens(*data_of(16, length), options);
}

} // namespace

TEST_CASE("what is computed at once by default follows the usual step, between two bounds") {
  CHECK(usual(200, 4) == 3584);       // little keeps no GPU busy
  CHECK(usual(200, 20) == 5000);      // a quarter above 4,000
  CHECK(usual(2000, 16) == 8192);     // more is no faster
  CHECK(usual(200, 4, 4800) == 6000); // a budget of tokens is the usual step
  CHECK(usual(2000, 16, 0, true) == 0);
}
