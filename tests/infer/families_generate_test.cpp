// Every family generates the same greedy tokens with and without its caches, alone and in a batch.
#include "infer/tiny.h"
#include "models/families.h"
#include "nn/support.h"
#include "temper/infer/generate_batch.h"

using namespace temper;
using namespace temper::test;

namespace {

constexpr int kNew = 10;

GenerationOptions options(int prefill_chunk = 512) {
  GenerationOptions made;
  made.max_tokens = kNew;
  made.stop_at_eos = false;
  made.prefill_chunk = prefill_chunk;
  return made;
}

// Shorter and longer than every window, convolution and trained length there is.
std::vector<Tokens> prompts() {
  std::vector<Tokens> made;
  for (const int length : {5, 30, 1, 21}) {
    made.push_back(family_tokens(length, length));
  }
  return made;
}

} // namespace

TEST_CASE("greedy tokens are the same with and without the cache, however the prompt is read") {
  const auto tokenizer = tiny_tokenizer();
  for (const auto& name : family_names()) {
    CAPTURE(name);
    const auto model = family_model(name);
    for (const auto& prompt : prompts()) {
      CAPTURE(prompt.size());
      const auto expected = greedy_without_cache(ModelView(model), prompt, kNew);
      for (const int chunk : {512, 3}) {
        CAPTURE(chunk);
        Generator generator(ModelView(model), tokenizer);
        CHECK(generator.generate(prompt, options(chunk)).tokens == expected);
      }
    }
  }
}

TEST_CASE("a batch of prompts of different lengths answers as each prompt alone") {
  const auto tokenizer = tiny_tokenizer();
  for (const auto& name : family_names()) {
    CAPTURE(name);
    const auto model = family_model(name);
    std::vector<Tokens> expected;
    for (const auto& prompt : prompts()) {
      Generator alone(ModelView(model), tokenizer);
      expected.push_back(alone.generate(prompt, options()).tokens);
    }
    for (const auto& [batch_size, chunk] : {std::pair(2, 512), std::pair(8, 6)}) {
      CAPTURE(batch_size);
      auto chosen = options(chunk);
      chosen.batch_size = batch_size;
      const auto found = generate_batch(ModelView(model), tokenizer, prompts(), chosen);
      REQUIRE(found.size() == expected.size());
      for (std::size_t i = 0; i < found.size(); ++i) {
        CAPTURE(i);
        CHECK(found[i].tokens == expected[i]);
      }
    }
  }
}

TEST_CASE("a chat goes on from its cache with the answers of a fresh start") {
  const auto tokenizer = tiny_tokenizer();
  for (const auto& name : family_names()) {
    CAPTURE(name);
    const auto model = family_model(name);
    Generator chat(ModelView(model), tokenizer);
    auto text = family_tokens(11, 3);
    const auto first = chat.generate(text, options());
    text.insert(text.end(), first.tokens.begin(), first.tokens.end());
    text.push_back(17);
    const auto second = chat.generate(text, options());
    Generator fresh(ModelView(model), tokenizer);
    CHECK(second.tokens == fresh.generate(text, options()).tokens);
    // Another text with the same beginning: what a window or a state has forgotten must be read again.
    text.resize(9);
    text.push_back(23);
    CHECK(chat.generate(text, options()).tokens ==
          Generator(ModelView(model), tokenizer).generate(text, options()).tokens);
  }
}
