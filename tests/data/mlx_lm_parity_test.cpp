// Batches under `compat: mlx-lm` against those that mlx-lm itself made (tests/golden/make_data_fixtures.py).
#include <doctest/doctest.h>

#include <memory>
#include <string>

#include "temper/base/json.h"
#include "temper/base/log.h"
#include "temper/data/loader.h"
#include "temper/data/prepared_data.h"
#include "temper/text/tokenizer.h"
#include "text/fixtures.h"

using namespace temper;
using namespace temper::test;

namespace {

std::string lines(const Json& rows) {
  std::string text;
  for (const auto& row : rows) {
    text += row.dump() + "\n";
  }
  return text;
}

// mlx-lm: inputs batch[:, :-1], targets batch[:, 1:], mask steps >= offset and steps <= length.
void check_batch(const HostBatch& batch, const Json& expected) {
  const Json& tokens = expected["tokens"];
  REQUIRE(batch.rows == static_cast<int>(tokens.size()));
  REQUIRE(batch.width + 1 == static_cast<int>(tokens[0].size()));
  std::int64_t supervised = 0;
  for (std::size_t row = 0; row < tokens.size(); ++row) {
    const auto length = expected["lengths"][row].get<int>();
    const auto offset = expected["offsets"][row].get<int>();
    for (int step = 1; step <= batch.width; ++step) {
      const auto cell = row * static_cast<std::size_t>(batch.width) + static_cast<std::size_t>(step - 1);
      const auto column = static_cast<std::size_t>(step);
      REQUIRE(batch.tokens[cell] == tokens[row][column - 1].get<int>());
      const bool target = step >= offset && step <= length;
      REQUIRE(batch.supervised[cell] == (target ? 1 : 0));
      supervised += target ? 1 : 0;
      if (target) {
        REQUIRE(batch.targets[cell] == tokens[row][column].get<int>());
      }
    }
  }
  CHECK(batch.num_supervised == supervised);
}

void check_case(const Json& expected) {
  CAPTURE(expected["name"].get<std::string>());
  const TempFolder folder;
  folder.write("data/train.jsonl", lines(expected["train"]));
  folder.write("data/valid.jsonl", lines(expected["valid"]));
  RunConfig config;
  config.data = (folder.path() / "data").string();
  config.cache_dir = (folder.path() / "cache").string();
  config.compat = "mlx-lm";
  config.mask_prompt = expected["mask_prompt"].get<bool>();
  config.max_seq_length = expected["max_seq_length"].get<int>();
  const auto data = prepare_data(config, Tokenizer::load(fixture("bytelevel")), 0);

  LoaderOptions options;
  options.compat_mlx_lm = true;
  options.batch_size = expected["batch_size"].get<int>();
  options.max_seq_length = config.max_seq_length;
  options.mlx_lm_random = std::make_shared<MlxLmRandom>(expected["seed"].get<std::uint64_t>());
  BatchLoader train(data.train, options);
  EvalBatches valid(data.valid, options, expected["val_batches"].get<int>());
  for (const auto& step : expected["steps"]) {
    if (step["split"] == "train") {
      check_batch(train.next(), step["batches"][0]);
      continue;
    }
    valid.draw();
    REQUIRE(valid.size() == step["batches"].size());
    for (std::size_t i = 0; i < valid.size(); ++i) {
      check_batch(valid[i], step["batches"][i]);
    }
  }
}

} // namespace

TEST_CASE("compat mlx-lm: tokens, masks, widths and order are mlx-lm's, evaluations in between") {
  log::set_level(log::Level::error);
  const Json cases = read_json(std::filesystem::path(TEMPER_TEST_DATA) / "data" / "mlx_lm.json");
  REQUIRE(cases.size() == 4);
  for (const auto& expected : cases) {
    check_case(expected);
  }
}
