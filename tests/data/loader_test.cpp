#include "temper/data/loader.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include "temper/base/error.h"

using namespace temper;

namespace {

constexpr std::int32_t kEos = 2;

// Example i: tokens 1000 * i + position, the last one EOS; the first `prompt` tokens are no targets.
Example make_example(int i, int length, int prompt) {
  Example example;
  for (int t = 0; t < length; ++t) {
    example.tokens.push_back(t + 1 == length ? kEos : 1000 * i + t);
    example.supervised.push_back(t >= prompt ? 1 : 0);
  }
  return example;
}

std::shared_ptr<const TokenDataset> make_data(int count, int max_length = 300) {
  std::mt19937 random(3);
  std::vector<Example> examples;
  for (int i = 0; i < count; ++i) {
    const int length = 4 + static_cast<int>(random() % static_cast<unsigned>(max_length - 4));
    examples.push_back(make_example(i, length, length / 3));
  }
  return make_token_dataset(std::move(examples));
}

LoaderOptions options_of(int batch_size) {
  LoaderOptions options;
  options.batch_size = batch_size;
  options.max_seq_length = 512;
  return options;
}

// Which examples a batch holds (by each document's first token), sorted.
std::vector<int> examples_of(const HostBatch& batch) {
  std::vector<int> found;
  for (const auto& document : batch.documents) {
    found.push_back(batch.tokens[static_cast<std::size_t>(document.row * batch.width + document.start)] / 1000);
  }
  std::ranges::sort(found);
  return found;
}

bool same(const HostBatch& a, const HostBatch& b) {
  return a.rows == b.rows && a.width == b.width && a.tokens == b.tokens && a.targets == b.targets &&
         a.supervised == b.supervised && a.segments == b.segments && a.positions == b.positions;
}

// Input token -> target over supervised columns; the loss sees nothing else.
std::multimap<std::int32_t, std::int32_t> supervised_pairs(const HostBatch& batch) {
  std::multimap<std::int32_t, std::int32_t> pairs;
  for (std::size_t i = 0; i < batch.tokens.size(); ++i) {
    if (batch.supervised[i] != 0) {
      pairs.emplace(batch.tokens[i], batch.targets[i]);
    }
  }
  return pairs;
}

} // namespace

TEST_CASE("rule 2: targets stop exactly at the last real token, and EOS is one of them") {
  for (const bool packing : {true, false}) {
    auto options = options_of(3);
    options.packing = packing;
    options.shuffle = false;
    // The padding token 0 is also the EOS here: position decides, not the id.
    auto examples = std::vector{make_example(1, 9, 4), make_example(2, 5, 0), make_example(3, 7, 6)};
    for (auto& example : examples) {
      example.tokens.back() = 0;
    }
    BatchLoader loader(make_token_dataset(examples), options);
    const auto batch = loader.next();
    std::int64_t eos_targets = 0;
    for (std::size_t i = 0; i < batch.tokens.size(); ++i) {
      if (batch.segments[i] < 0) {
        CHECK(batch.supervised[i] == 0);
        CHECK(batch.targets[i] == 0);
      } else if (batch.supervised[i] != 0 && batch.targets[i] == 0) {
        ++eos_targets;
      }
    }
    CHECK(eos_targets == 3);
    CHECK(batch.num_supervised == (9 - 4) + (5 - 1) + (7 - 6));
    CHECK(batch.num_tokens == 9 + 5 + 7);
    CHECK(batch.num_examples == 3);
  }
}

TEST_CASE("rule 9: packed documents keep their own segment and restart their positions") {
  auto options = options_of(6);
  BatchLoader loader(make_data(60), options);
  const auto batch = loader.next();
  REQUIRE(batch.packed);
  REQUIRE(batch.documents.size() == 6);
  for (std::size_t d = 0; d < batch.documents.size(); ++d) {
    const auto& document = batch.documents[d];
    for (int t = 0; t < document.length; ++t) {
      const auto cell = static_cast<std::size_t>(document.row * batch.width + document.start + t);
      CHECK(batch.segments[cell] == static_cast<std::int32_t>(d));
      CHECK(batch.positions[cell] == t);
    }
  }
  CHECK(std::ranges::is_sorted(batch.documents, [](const auto& a, const auto& b) {
    return std::pair(a.row, a.start) < std::pair(b.row, b.start);
  }));
}

TEST_CASE("step n holds the same examples and targets packed or not") {
  const auto data = make_data(103);
  for (const std::int64_t budget : {0, 1500}) {
    auto packed = options_of(8);
    packed.batch_tokens = budget;
    auto padded = packed;
    padded.packing = false;
    BatchLoader a(data, packed);
    BatchLoader b(data, padded);
    for (int step = 0; step < 40; ++step) {
      const auto x = a.next();
      const auto y = b.next();
      CHECK(examples_of(x) == examples_of(y));
      CHECK(supervised_pairs(x) == supervised_pairs(y));
      CHECK(x.num_supervised == y.num_supervised);
      CHECK(x.num_tokens == y.num_tokens);
      CHECK(x.width % 128 == 0);
      CHECK(y.width % 128 == 0);
    }
    CHECK(a.cursor().epoch == b.cursor().epoch);
  }
}

TEST_CASE("the order depends on seed and epoch, not on prefetching") {
  const auto data = make_data(50);
  auto options = options_of(4);
  auto eager = options;
  eager.prefetch = 0;
  auto other = options;
  other.seed = 1;
  BatchLoader a(data, options);
  BatchLoader b(data, eager);
  BatchLoader c(data, other);
  bool differs = false;
  for (int step = 0; step < 30; ++step) {
    const auto x = a.next();
    CHECK(same(x, b.next()));
    differs = differs || !same(x, c.next());
  }
  CHECK(differs);
}

TEST_CASE("each pass takes every example once, in another order and other company") {
  const auto data = make_data(41);
  BatchLoader loader(data, options_of(4));
  CHECK(loader.batches_per_epoch() == 11);
  std::vector<std::vector<std::vector<int>>> passes(2);
  for (auto& pass : passes) {
    std::vector<int> seen;
    for (int step = 0; step < 11; ++step) {
      pass.push_back(examples_of(loader.next()));
      seen.insert(seen.end(), pass.back().begin(), pass.back().end());
    }
    CHECK(pass.back().size() == 1); // the smaller batch comes last
    std::ranges::sort(seen);
    CHECK(std::ranges::adjacent_find(seen) == seen.end());
    CHECK(seen.size() == 41);
    std::ranges::sort(pass);
  }
  CHECK(passes[0] != passes[1]);
  CHECK(loader.cursor().epoch == 2);
  CHECK(loader.cursor().batch == 0);
  CHECK(loader.epoch() == doctest::Approx(2.0));
}

TEST_CASE("rule 7: a loader started from any cursor goes on with the very next batch") {
  const auto data = make_data(37);
  for (const std::int64_t budget : {0, 900}) {
    auto options = options_of(4);
    options.batch_tokens = budget;
    BatchLoader whole(data, options);
    for (int step = 0; step < 25; ++step) {
      const auto cursor = DataCursor::from_json(whole.cursor().to_json());
      BatchLoader resumed(data, options, cursor);
      CHECK(resumed.epoch() == doctest::Approx(whole.epoch()));
      const auto expected = whole.next();
      CHECK(same(resumed.next(), expected));
      CHECK(resumed.cursor().epoch == whole.cursor().epoch);
      CHECK(resumed.cursor().batch == whole.cursor().batch);
    }
  }
}

TEST_CASE("unpacked rows waste little: lengths in a batch are alike") {
  const auto data = make_data(4000);
  auto options = options_of(8);
  options.packing = false;
  options.width_multiple = 1;
  BatchLoader loader(data, options);
  std::int64_t used = 0;
  std::int64_t room = 0;
  for (std::uint64_t i = 0; i < loader.batches_per_epoch(); ++i) {
    const auto batch = loader.next();
    used += batch.num_tokens - batch.num_examples;
    room += static_cast<std::int64_t>(batch.rows) * batch.width;
  }
  CHECK(static_cast<double>(used) > 0.93 * static_cast<double>(room));
}

TEST_CASE("a token budget bounds every batch that has more than one example") {
  const auto data = make_data(200);
  auto options = options_of(1);
  options.batch_tokens = 700;
  BatchLoader loader(data, options);
  double filled = 0;
  const auto batches = loader.batches_per_epoch();
  for (std::uint64_t i = 0; i < batches; ++i) {
    const auto batch = loader.next();
    CHECK((batch.num_examples == 1 || batch.num_tokens <= 700));
    filled += static_cast<double>(batch.num_tokens);
  }
  CHECK(filled / static_cast<double>(batches) > 500);
}

TEST_CASE("drop_last leaves the smaller batch out, but never the only one") {
  auto options = options_of(4);
  options.drop_last = true;
  BatchLoader loader(make_data(11), options);
  CHECK(loader.batches_per_epoch() == 2);
  loader.next();
  loader.next();
  CHECK(loader.cursor().epoch == 1);
  BatchLoader small(make_data(3), options);
  CHECK(small.batches_per_epoch() == 1);
  CHECK(small.next().num_examples == 3);
}

TEST_CASE("evaluation: the same batches each time, in the data's order, each example once") {
  const auto data = make_data(10);
  EvalBatches all(data, options_of(4), -1);
  REQUIRE(all.size() == 3);
  CHECK(examples_of(all[0]) == std::vector{0, 1, 2, 3});
  CHECK(examples_of(all[2]) == std::vector{8, 9});
  CHECK(same(all[1], all[1]));
  CHECK(EvalBatches(data, options_of(4), 2).size() == 2);
  CHECK(EvalBatches(data, options_of(4), 99).size() == 3);
  CHECK(EvalBatches(data, options_of(4), 0).size() == 0);
}

TEST_CASE("compat mlx-lm: widths, padding and target mask are mlx-lm's") {
  auto options = options_of(2);
  options.compat_mlx_lm = true;
  options.max_seq_length = 40;
  // Offsets 3 and 0; lengths 10 and 33 -> 1 + 64 capped at 40 tokens: 39 columns.
  BatchLoader loader(make_token_dataset({make_example(1, 10, 3), make_example(2, 33, 0)}), options);
  const auto batch = loader.next();
  REQUIRE(batch.rows == 2);
  REQUIRE(batch.width == 39);
  const int first = batch.tokens[0] == 1000 ? 0 : 39;
  const int second = 39 - first;
  for (int step = 1; step <= 39; ++step) { // mlx-lm: steps >= offset and steps <= length
    CHECK(batch.supervised[static_cast<std::size_t>(first + step - 1)] == (step >= 3 && step <= 10));
    CHECK(batch.supervised[static_cast<std::size_t>(second + step - 1)] == (step <= 33));
  }
  CHECK(batch.tokens[static_cast<std::size_t>(first + 9)] == kEos); // the last token is an input too
  CHECK(batch.targets[static_cast<std::size_t>(first + 9)] == 0);
  CHECK(batch.num_supervised == 8 + 33);
  CHECK(batch.documents.size() == 2);
  CHECK(batch.documents[0].length == 39);
  CHECK(!batch.packed);
}

TEST_CASE("compat mlx-lm: a row as long as the maximum is cut and has no target beyond it") {
  auto options = options_of(1);
  options.compat_mlx_lm = true;
  options.max_seq_length = 20;
  BatchLoader loader(make_token_dataset({make_example(1, 50, 5)}), options);
  const auto batch = loader.next();
  CHECK(batch.width == 19);
  CHECK(batch.targets[18] == 1019);
  CHECK(batch.num_supervised == 15);
  CHECK(batch.num_tokens == 20);
}

TEST_CASE("compat mlx-lm: order is numpy's, shared with evaluations, and resumes") {
  // np.random.seed(0); permutation(5) for training, permutation(3) for validation, permutation(5) ...
  const auto train = make_data(11);
  const auto valid = make_data(6);
  auto options = options_of(2);
  options.compat_mlx_lm = true;
  options.mlx_lm_random = std::make_shared<MlxLmRandom>(0);
  NumpyRandom expected(0);

  BatchLoader loader(train, options);
  EvalBatches eval(valid, options, 2);
  CHECK(loader.batches_per_epoch() == 5); // the tail is dropped
  const auto first_pass = expected.permutation(5);
  std::vector<std::vector<int>> passes;
  for (int step = 0; step < 5; ++step) {
    const int batch = static_cast<int>(first_pass[static_cast<std::size_t>(step)]);
    CHECK(examples_of(loader.next()) == std::vector{2 * batch, 2 * batch + 1});
    if (step == 0 || step == 3) {
      eval.draw();
      const int drawn = static_cast<int>(expected.permutation(3)[0]);
      CHECK(eval.size() == 2);
      CHECK(examples_of(eval[0]) == std::vector{2 * drawn, 2 * drawn + 1});
    }
  }
  const auto second_pass = expected.permutation(5);
  loader.next();
  const int batch = static_cast<int>(second_pass[1]);

  auto resumed_options = options;
  resumed_options.mlx_lm_random =
      std::make_shared<MlxLmRandom>(MlxLmRandom::from_json(options.mlx_lm_random->to_json()));
  BatchLoader resumed(train, resumed_options, DataCursor::from_json(loader.cursor().to_json()));
  CHECK(examples_of(loader.next()) == std::vector{2 * batch, 2 * batch + 1});
  CHECK(examples_of(resumed.next()) == std::vector{2 * batch, 2 * batch + 1});
}

TEST_CASE("compat mlx-lm: resuming without a shared generator") {
  const auto data = make_data(11);
  auto options = options_of(2);
  options.compat_mlx_lm = true;
  BatchLoader whole(data, options);
  for (int step = 0; step < 13; ++step) {
    BatchLoader resumed(data, options, whole.cursor());
    CHECK(same(resumed.next(), whole.next()));
  }
}

TEST_CASE("what cannot be loaded is refused with its reason") {
  const auto data = make_data(10);
  CHECK_THROWS_AS(BatchLoader(make_token_dataset({}), options_of(1)), DataError);
  CHECK_THROWS_AS(BatchLoader(make_token_dataset({make_example(1, 600, 0)}), options_of(1)), DataError);
  CHECK_THROWS_AS(BatchLoader(make_token_dataset({make_example(1, 1, 0)}), options_of(1)), DataError);
  CHECK_THROWS_AS(BatchLoader(data, options_of(0)), ConfigError);
  CHECK_THROWS_AS(BatchLoader(data, options_of(4), {0, 3, -1}), CheckpointError);
  CHECK_THROWS_AS(make_token_dataset({{{1, 2, 3}, {1}}}), DataError);
  auto compat = options_of(11);
  compat.compat_mlx_lm = true;
  CHECK_THROWS_AS(BatchLoader(data, compat), DataError);
  CHECK_THROWS_AS(DataCursor::from_json({{"epoch", "x"}}), CheckpointError);
}

TEST_CASE("a loader may be left with batches prefetched") {
  for (int i = 0; i < 20; ++i) {
    BatchLoader loader(make_data(30), options_of(2));
    if (i % 2 == 0) {
      loader.next();
    }
  }
}

TEST_CASE("a subset shows the chosen examples and has a fingerprint of its own") {
  const auto data = make_data(10);
  const auto subset = make_subset(data, {7, 2});
  REQUIRE(subset->size() == 2);
  CHECK((*subset)[0].tokens[0] == 7000);
  CHECK(subset->length(1) == data->length(2));
  CHECK(subset->fingerprint() != data->fingerprint());
  CHECK(subset->fingerprint() != make_subset(data, {2, 7})->fingerprint());
  CHECK_THROWS_AS(make_subset(data, {10}), DataError);
}
