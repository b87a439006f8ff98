#include "temper/eval/perplexity.h"
#include "temper/models/adapter_params.h"

#include <doctest/doctest.h>

#include <cmath>

#include "infer/tiny.h"
#include "temper/base/error.h"

using namespace temper;
using namespace temper::test;

namespace {

// Examples of 2 to 40 tokens, the first third of each a prompt.
std::vector<Example> examples(int count) {
  std::vector<Example> all;
  for (int i = 0; i < count; ++i) {
    Example example;
    example.tokens = some_tokens(2 + (i * 7) % 39, i);
    example.supervised.assign(example.tokens.size(), 1);
    std::fill_n(example.supervised.begin(), example.tokens.size() / 3, std::uint8_t{0});
    all.push_back(example);
  }
  return all;
}

// The definition: -log softmax(logits)[next token], summed over supervised tokens, divided by their count.
DatasetLoss plain_loss(const ModelView& model, const std::vector<Example>& all) {
  DatasetLoss result;
  double sum = 0;
  for (const auto& example : all) {
    const Tokens inputs(example.tokens.begin(), example.tokens.end() - 1);
    const auto logits = mx::astype(full_logits(model, inputs), mx::float32);
    const auto log_probability = logits - mx::logsumexp(logits, 1, true);
    mx::eval(log_probability);
    for (std::size_t t = 1; t < example.tokens.size(); ++t) {
      if (example.supervised[t] != 0) {
        sum -= log_probability.data<float>()[(t - 1) * static_cast<std::size_t>(logits.shape(1)) +
                                             static_cast<std::size_t>(example.tokens[t])];
        ++result.tokens;
      }
    }
  }
  result.loss = sum / static_cast<double>(result.tokens);
  return result;
}

DatasetLoss measure(const ModelView& model, const std::vector<Example>& all, LoaderOptions options,
                    const LossOptions& loss_options = {}) {
  options.shuffle = false;
  options.prefetch = 0;
  return evaluate_loss(model, EvalBatches(make_token_dataset(all), options, -1), loss_options);
}

} // namespace

TEST_CASE("rule 1: the loss is the sum over supervised tokens by their count, whatever the batches") {
  for (const std::string name : {"llama2", "mistral", "dynamic"}) {
    const auto model = fixture(name);
    const auto all = examples(13);
    const auto expected = plain_loss(ModelView(model), all);
    for (const int batch_size : {1, 4, 13, 50}) {
      for (const bool packing : {false, true}) {
        for (const auto attention : {PackedAttention::documents, PackedAttention::dense_mask}) {
          CAPTURE(name);
          CAPTURE(batch_size);
          CAPTURE(packing);
          const auto found = measure(
              ModelView(model), all,
              {.batch_size = batch_size, .max_seq_length = 64, .packing = packing, .width_multiple = 32},
              {.attention = attention});
          CHECK(found.tokens == expected.tokens);
          CHECK(found.loss == doctest::Approx(expected.loss).epsilon(1e-5));
          CHECK(found.perplexity() == doctest::Approx(std::exp(expected.loss)).epsilon(1e-4));
        }
      }
    }
  }
}

TEST_CASE("chunks of the head do not change the loss") {
  const auto model = fixture("llama32");
  const auto all = examples(9);
  const auto expected = plain_loss(ModelView(model), all);
  for (const int chunk : {1, 7, 1000}) {
    CHECK(measure(ModelView(model), all, {.batch_size = 5}, {.chunk = chunk}).loss ==
          doctest::Approx(expected.loss).epsilon(1e-5));
  }
}

TEST_CASE("an adapter changes the loss") {
  const auto model = fixture("llama2");
  const LoraConfig lora{.rank = 2, .scale = 4.0F};
  auto adapter = init_adapter(lora, adaptable_layers(model.spec, -1, {}), 1);
  const auto all = examples(4);
  const ModelView view(model.spec, model.params, adapter, lora);
  CHECK(measure(view, all, {}).loss == doctest::Approx(plain_loss(ModelView(model), all).loss).epsilon(1e-5));
  for (auto& [name, array] : adapter) {
    array = array + mx::array(0.1F);
  }
  const ModelView changed(model.spec, model.params, adapter, lora);
  CHECK(measure(changed, all, {}).loss == doctest::Approx(plain_loss(changed, all).loss).epsilon(1e-5));
  CHECK(std::abs(measure(changed, all, {}).loss - plain_loss(ModelView(model), all).loss) > 1e-3);
}

TEST_CASE("a callback follows the batches and may end them") {
  const auto model = fixture("llama2");
  std::vector<std::size_t> seen;
  LossOptions options;
  options.on_batch = [&](std::size_t done, std::size_t total) {
    CHECK(total == 4);
    seen.push_back(done);
    return done < 2;
  };
  const auto found = measure(ModelView(model), examples(4), {.batch_size = 1}, options);
  CHECK(seen == std::vector<std::size_t>{1, 2});
  CHECK(found.batches == 2);
}

TEST_CASE("data without a supervised token has no loss") {
  const auto model = fixture("llama2");
  auto all = examples(2);
  for (auto& example : all) {
    std::fill(example.supervised.begin(), example.supervised.end(), std::uint8_t{0});
  }
  CHECK_THROWS_AS(measure(ModelView(model), all, {}), DataError);
}
