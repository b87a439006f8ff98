#include "temper/infer/kv_cache.h"

#include <doctest/doctest.h>

#include "infer/tiny.h"
#include "models/families.h"

using namespace temper;
using namespace temper::test;

namespace {

DecoderSpec layers(const std::vector<LayerSpec>& specs) {
  DecoderSpec spec;
  spec.num_layers = static_cast<int>(specs.size());
  spec.layers = specs;
  return spec;
}

// Keys whose every feature is their column's number, in `rows` rows; row r's are 100 r more.
mx::array numbered(int rows, int begin, int count) {
  const auto column = mx::reshape(mx::arange(begin, begin + count, 1, mx::float32), {1, 1, count, 1});
  const auto row = mx::reshape(mx::arange(0, 100 * rows, 100, mx::float32), {rows, 1, 1, 1});
  return mx::broadcast_to(column + row, {rows, 2, count, 4});
}

StoredKeys pass(KvCache& cache, int count, int rows = 1) {
  const auto k = numbered(rows, cache.offset(), count);
  auto stored = cache.update(0, k, -k);
  cache.advance(count);
  mx::eval(cache.arrays());
  return stored;
}

std::vector<float> numbers(const mx::array& keys, int row = 0) {
  auto column = mx::contiguous(mx::slice(keys, {row, 0, 0, 0}, {row + 1, 1, keys.shape(2), 1}));
  mx::eval(column);
  return {column.data<float>(), column.data<float>() + keys.shape(2)};
}

std::vector<float> range(int begin, int end) {
  std::vector<float> values;
  for (int i = begin; i < end; ++i) {
    values.push_back(static_cast<float>(i));
  }
  return values;
}

std::size_t bytes(const KvCache& cache) {
  std::size_t total = 0;
  for (const auto& array : cache.arrays()) {
    total += array.nbytes();
  }
  return total;
}

} // namespace

TEST_CASE("a layer without a window keeps every key") {
  KvCache cache(layers({{}}));
  for (const int count : {3, 300, 1, 1}) {
    const auto stored = pass(cache, count);
    CHECK(stored.first == 0);
    CHECK(numbers(stored.keys) == range(0, cache.offset()));
    CHECK(numbers(-stored.values) == range(0, cache.offset()));
  }
}

TEST_CASE("a windowed layer keeps the keys that its window can still reach") {
  KvCache cache(layers({{.window = 5}}));
  for (const int count : {3, 1, 1, 1, 700, 1, 2, 600, 1}) {
    const int before = cache.offset();
    const auto stored = pass(cache, count);
    CHECK(stored.first == std::max(0, before - 4));
    CHECK(numbers(stored.keys) == range(stored.first, cache.offset()));
  }
}

TEST_CASE("keys come in multiples where that is asked for") {
  for (const int window : {0, 5}) {
    KvCache cache(layers({{.window = window}}));
    for (const int count : {3, 1, 60, 1, 200, 1}) {
      const auto k = numbered(1, cache.offset(), count);
      const auto stored = cache.update(0, k, -k, 64);
      cache.advance(count);
      CHECK(stored.keys.shape(2) % 64 == 0);
      CHECK(stored.keys.shape(2) - (cache.offset() - stored.first) < 64);
      auto known = numbers(stored.keys);
      known.resize(static_cast<std::size_t>(cache.offset() - stored.first));
      CHECK(known == range(stored.first, cache.offset()));
    }
  }
}

TEST_CASE("the memory of a windowed layer does not grow with the text") {
  KvCache windowed(layers({{.window = 100}}));
  KvCache full(layers({{}}));
  pass(windowed, 90);
  std::size_t most = 0;
  for (int i = 0; i < 40; ++i) {
    for (int token = 0; token < 60; ++token) {
      pass(windowed, 1);
    }
    most = std::max(most, bytes(windowed));
  }
  pass(full, windowed.offset());
  CHECK(windowed.offset() == 2490);
  CHECK(most <= 2 * 2 * 4 * sizeof(float) * (100 + 2 * 256 + 8));
  CHECK(3 * most < bytes(full));
}

TEST_CASE("a cache goes back as far as what it holds allows") {
  KvCache full(layers({{}}));
  pass(full, 50);
  CHECK(full.reach(20) == 20);
  CHECK(full.trim(20) == 20);
  CHECK(numbers(pass(full, 1).keys) == range(0, 21));

  KvCache windowed(layers({{.window = 8}}));
  pass(windowed, 600);
  CHECK(windowed.reach(590) == 590); // nothing has been left behind yet
  for (int i = 0; i < 500; ++i) {
    pass(windowed, 1);
  }
  CHECK(windowed.reach(windowed.offset() - 1) > 0);
  CHECK(windowed.reach(20) == 0);
  CHECK(windowed.trim(20) == 0);
  CHECK(windowed.arrays().empty());
  CHECK(numbers(pass(windowed, 3).keys) == range(0, 3));
}

TEST_CASE("marks are places to go back to") {
  KvCache cache(layers({{.window = 4}, {.mixer = Mixer::short_conv}}));
  const auto go_on = [&](int count) {
    pass(cache, count);
    cache.state(1) = {mx::full({1, 2}, static_cast<float>(cache.offset()))};
  };
  go_on(10);
  cache.mark();
  go_on(700);
  cache.mark();
  go_on(5);
  CHECK(cache.reach(715) == 715);
  CHECK(cache.reach(714) == 710);
  CHECK(cache.reach(709) == 10);
  CHECK(cache.reach(9) == 0);
  CHECK(cache.trim(300) == 10);
  CHECK(cache.state(1).at(0).shape() == mx::Shape{1, 2});
  CHECK(mx::take(cache.state(1).at(0), 0).item<float>() == 10.0F);
  CHECK(numbers(pass(cache, 1).keys) == range(7, 11));
  CHECK(cache.reach(10) == 10); // the mark stands
  CHECK(cache.trim(3) == 0);
  CHECK(cache.state(1).empty());
}

TEST_CASE("rows leave, and columns that are padding everywhere") {
  for (const int window : {0, 6}) {
    CAPTURE(window);
    KvCache cache(layers({{.window = window}}));
    pass(cache, 20, 3);
    cache.keep_rows(mx::array({0, 2}, mx::int32));
    cache.drop_columns(4);
    CHECK(cache.offset() == 16);
    const auto k = numbered(2, 20, 1);
    const auto stored = cache.update(0, k, -k);
    const int first = window == 0 ? 4 : 20 - window + 1;
    CHECK(stored.first == first - 4);
    CHECK(numbers(stored.keys) == range(first, 21));
    auto last_row = numbers(stored.keys, 1);
    CHECK(last_row.front() == static_cast<float>(first) + 200.0F);
    CHECK(last_row.back() == 120.0F); // numbered() knows of two rows
  }
}

TEST_CASE("caches of different lengths merge, the shorter ones padded on the left") {
  for (const int window : {0, 6}) {
    CAPTURE(window);
    const auto spec = layers({{.window = window}, {.mixer = Mixer::short_conv}});
    KvCache longer(spec);
    KvCache shorter(spec);
    const KvCache none(spec);
    pass(longer, 300, 2);
    pass(shorter, 3);
    shorter.state(1) = {mx::full({1, 2}, 7.0F)};
    auto merged = KvCache::merge({{&longer, {1}}, {&none, {0, 0}}, {&shorter, {0, 0}}});
    CHECK(merged.offset() == 300);
    const auto content = merged.content(0);
    const int first = window == 0 ? 0 : 300 - window + 1;
    CHECK(content.keys->first == first);
    CHECK(numbers(content.keys->keys, 0).back() == 399.0F);
    CHECK(numbers(content.keys->keys, 2) == std::vector<float>(static_cast<std::size_t>(300 - first), 0.0F));
    for (const int row : {3, 4}) {
      auto expected = std::vector<float>(static_cast<std::size_t>(300 - first - 3), 0.0F);
      expected.insert(expected.end(), {0.0F, 1.0F, 2.0F});
      CHECK(numbers(content.keys->keys, row) == expected);
    }
    auto state = merged.content(1).state.at(0);
    CHECK(state.shape() == mx::Shape{5, 2});
    CHECK(mx::sum(state).item<float>() == 4 * 7.0F);
    merged.trim(0);
    CHECK(longer.offset() == 300); // what it was made of stays as it was
    CHECK(numbers(pass(longer, 1, 2).keys, 0).back() == 300.0F);
  }
}

TEST_CASE("what was read out restores a cache") {
  const auto model = family_model("gemma3_text");
  KvCache cache(model.spec);
  ForwardContext context{ParamView(model.params), {}, std::nullopt};
  const auto tokens = family_tokens(40, 3);
  const auto logits = [&](KvCache& own, int begin, int end) {
    DecoderInput input{.tokens_BT = mx::array(tokens.data() + begin, {1, end - begin}, mx::int32)};
    input.attention.cache = &own;
    return decoder_logits(model.spec, context, decoder_hidden(model.spec, context, input));
  };
  mx::eval(logits(cache, 0, 31));
  std::vector<KvCache::LayerContent> contents;
  for (int layer = 0; layer < model.spec.num_layers; ++layer) {
    contents.push_back(cache.content(layer));
  }
  KvCache restored(model.spec);
  restored.restore(contents, cache.offset());
  const auto expected = logits(cache, 31, 40);
  CHECK(mx::array_equal(expected, logits(restored, 31, 40)).item<bool>());
}
