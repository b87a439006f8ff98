#include "temper/infer/generate_batch.h"

#include <doctest/doctest.h>

#include "infer/tiny.h"
#include "models/families.h"
#include "temper/base/error.h"

using namespace temper;
using namespace temper::test;

namespace {

const std::shared_ptr<const Tokenizer>& tokenizer() {
  static const auto kTokenizer = tiny_tokenizer();
  return kTokenizer;
}

// Models with every kind of cache: full, windowed, mixed with sinks, convolutions, delta rule, stretched ropes.
const std::vector<std::string>& cache_kinds() {
  static const std::vector<std::string> kNames{"qwen3", "mixtral_window", "gemma3_text", "gpt_oss",
                                               "lfm2",  "qwen3_5_text",   "phi3_su"};
  return kNames;
}

GenerationOptions length(int max_tokens, int batch_size = 32) {
  GenerationOptions options;
  options.max_tokens = max_tokens;
  options.batch_size = batch_size;
  options.stop_at_eos = false;
  return options;
}

std::vector<GenerationResult> one_by_one(const ModelView& model, const std::vector<BatchPrompt>& prompts,
                                         GenerationOptions options) {
  Generator generator(model, tokenizer());
  std::vector<GenerationResult> results;
  for (const auto& prompt : prompts) {
    options.max_tokens = prompt.max_tokens > 0 ? prompt.max_tokens : options.max_tokens;
    generator.reset();
    results.push_back(generator.generate(prompt.tokens, options));
  }
  return results;
}

void check_equal(const std::vector<GenerationResult>& found, const std::vector<GenerationResult>& expected) {
  REQUIRE(found.size() == expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    CAPTURE(i);
    CHECK(found[i].tokens == expected[i].tokens);
    CHECK(found[i].text == expected[i].text);
    CHECK(found[i].finish_reason == expected[i].finish_reason);
    CHECK(found[i].prompt_tokens == expected[i].prompt_tokens);
  }
}

// Prompts and answers of many lengths, in no order.
std::vector<BatchPrompt> mixed_prompts(int count) {
  std::vector<BatchPrompt> prompts;
  for (int i = 0; i < count; ++i) {
    prompts.push_back({family_tokens(1 + (i * 11) % 37, i), static_cast<std::uint64_t>(i), 2 + (i * 7) % 19});
  }
  return prompts;
}

} // namespace

TEST_CASE("waiting prompts take the places of finished ones and every answer is its own") {
  for (const auto& name : cache_kinds()) {
    CAPTURE(name);
    const auto model = family_model(name);
    const auto prompts = mixed_prompts(14);
    const auto expected = one_by_one(ModelView(model), prompts, length(20));
    for (const int batch_size : {3, 9}) {
      CAPTURE(batch_size);
      auto options = length(20, batch_size);
      options.prefill_chunk = batch_size == 3 ? 8 : 512;
      std::size_t told = 0;
      BatchSpeed speed;
      const auto found = answer_prompts(
          ModelView(model), tokenizer(), prompts, options,
          [&](std::size_t index, const GenerationResult& answer) {
            ++told;
            CHECK(answer.tokens == expected[index].tokens);
          },
          &speed);
      CHECK(told == prompts.size());
      check_equal(found, expected);
      std::int64_t tokens = 0;
      std::int64_t prompt_tokens = 0;
      for (const auto& answer : expected) {
        tokens += static_cast<std::int64_t>(answer.tokens.size());
        prompt_tokens += answer.prompt_tokens;
      }
      CHECK(speed.tokens == tokens);
      CHECK(speed.prompt_tokens == prompt_tokens);
      CHECK(speed.prompt_tokens_per_second() > 0);
      CHECK(speed.tokens_per_second() > 0);
    }
  }
}

TEST_CASE("stop strings end rows at their own times") {
  const auto model = fixture("llama2");
  std::vector<Tokens> prompts;
  std::vector<BatchPrompt> texts;
  for (int i = 0; i < 11; ++i) {
    prompts.push_back(some_tokens(1 + (i * 5) % 13, i));
    texts.push_back({prompts.back(), static_cast<std::uint64_t>(i)});
  }
  auto options = length(10);
  options.stop = {"ab", "c", "q"};
  const auto expected = one_by_one(ModelView(model), texts, options);
  for (const int batch_size : {1, 4, 32}) {
    options.batch_size = batch_size;
    check_equal(generate_batch(ModelView(model), tokenizer(), prompts, options), expected);
  }
  CHECK(generate_batch(ModelView(model), tokenizer(), std::vector<Tokens>{}, options).empty());
}

TEST_CASE("sampled answers do not depend on what runs beside them") {
  const auto model = fixture("llama2");
  auto options = length(12, 5);
  options.sampling = {.temperature = 1.0F, .top_k = 60, .repetition_penalty = 1.3F, .seed = 9};
  auto prompts = mixed_prompts(12);
  const auto all = answer_prompts(ModelView(model), tokenizer(), prompts, options);
  options.batch_size = 2;
  check_equal(answer_prompts(ModelView(model), tokenizer(), prompts, options), all);
  prompts.erase(prompts.begin(), prompts.begin() + 7);
  const auto last = answer_prompts(ModelView(model), tokenizer(), prompts, options);
  check_equal(last, {all.begin() + 7, all.end()});
  // The same prompt as another text draws otherwise.
  const BatchPrompt prompt{some_tokens(5, 1), 0};
  const auto two = answer_prompts(ModelView(model), tokenizer(), {prompt, {prompt.tokens, 1}}, options);
  CHECK(two[0].tokens != two[1].tokens);
}

TEST_CASE("what prompts share at their beginning is read once") {
  for (const auto& name : cache_kinds()) {
    CAPTURE(name);
    const auto model = family_model(name);
    const auto beginning = family_tokens(150, 5);
    std::vector<BatchPrompt> prompts;
    for (int i = 0; i < 10; ++i) {
      prompts.push_back({beginning, static_cast<std::uint64_t>(i)});
      const auto rest = family_tokens(1 + (i * 5) % 23, 50 + i);
      prompts.back().tokens.insert(prompts.back().tokens.end(), rest.begin(), rest.end());
    }
    const auto expected = one_by_one(ModelView(model), prompts, length(6));
    auto options = length(6, 4);
    options.prefill_chunk = 64;
    BatchSpeed speed;
    check_equal(answer_prompts(ModelView(model), tokenizer(), prompts, options, nullptr, &speed), expected);
    if (name == "phi3_su") {
      CHECK(speed.reused_tokens == 0); // its angles are those of the whole text's length
    } else {
      CHECK(speed.reused_tokens > 5 * 150);
      CHECK(speed.reused_tokens < 10 * 150);
    }
  }
}

TEST_CASE("prompts are taken up by their beginnings, long ones first") {
  std::vector<BatchPrompt> prompts;
  const auto first = some_tokens(100, 1);
  const auto second = some_tokens(100, 2);
  for (int i = 0; i < 12; ++i) {
    auto tokens = i % 3 == 0 ? first : i % 3 == 1 ? second : Tokens{};
    const auto rest = some_tokens(2 + i, 10 + i);
    tokens.insert(tokens.end(), rest.begin(), rest.end());
    prompts.push_back({tokens});
  }
  const auto order = batch_order(prompts, 4);
  CHECK(order.indices == std::vector<std::size_t>{9, 6, 3, 0, 10, 7, 4, 1, 11, 8, 5, 2});
  std::vector<bool> ends(12, false);
  ends[3] = ends[7] = ends[11] = true;
  CHECK(order.ends == ends);
  // Too few share a beginning to be worth a batch of their own.
  const auto wide = batch_order(prompts, 32);
  CHECK(wide.indices == std::vector<std::size_t>{10, 9, 7, 6, 4, 3, 1, 0, 11, 8, 5, 2});
  CHECK(batch_order({}, 4).indices.empty());
}

TEST_CASE("a cancelled batch says which answers are unfinished") {
  const auto model = fixture("llama2");
  auto options = length(10, 2);
  int asked = 0;
  options.cancelled = [&] { return ++asked > 6; };
  const auto results = generate_batch(ModelView(model), tokenizer(),
                                      {some_tokens(4, 1), some_tokens(4, 2), some_tokens(4, 3)}, options);
  REQUIRE(results.size() == 3);
  for (const auto& result : results) {
    CHECK(result.finish_reason == "cancelled");
    CHECK(result.prompt_tokens == 4);
  }
  CHECK(!results[0].tokens.empty());
  CHECK(results[2].tokens.empty());
}
