#include "temper/infer/token_stream.h"
#include "temper/models/adapter_params.h"

#include <doctest/doctest.h>

#include "infer/tiny.h"
#include "models/families.h"
#include "temper/base/error.h"

using namespace temper;
using namespace temper::test;

namespace {

std::vector<Tokens> generate(TokenStream& stream, const std::vector<Tokens>& prompts, int count) {
  REQUIRE(stream.start(prompts));
  std::vector<Tokens> rows(prompts.size());
  for (int i = 0; i < count; ++i) {
    const auto next = stream.next(i + 1 < count);
    REQUIRE(next.size() == rows.size());
    for (std::size_t row = 0; row < rows.size(); ++row) {
      rows[row].push_back(next[row]);
    }
  }
  return rows;
}

Tokens generate_one(const ModelView& model, const Tokens& prompt, int count, int chunk = 512) {
  TokenStream stream(model, {}, chunk);
  return generate(stream, {prompt}, count).front();
}

Tokens join(const Tokens& a, const Tokens& b) {
  Tokens all = a;
  all.insert(all.end(), b.begin(), b.end());
  return all;
}

} // namespace

TEST_CASE("greedy tokens with the cache are those of whole forward passes") {
  // mistral's window is 8 and dynamic's trained length 32: both are passed on the way.
  for (const auto& name : fixture_names()) {
    CAPTURE(name);
    const auto model = fixture(name);
    const auto prompt = some_tokens(10, 1);
    CHECK(generate_one(ModelView(model), prompt, 36) == greedy_without_cache(ModelView(model), prompt, 36));
  }
}

TEST_CASE("a prompt longer than the window or the trained length goes on as it should") {
  for (const std::string name : {"mistral", "dynamic"}) {
    CAPTURE(name);
    const auto model = fixture(name);
    const auto prompt = some_tokens(45, 2);
    const auto expected = greedy_without_cache(ModelView(model), prompt, 8);
    CHECK(generate_one(ModelView(model), prompt, 8) == expected);
    CHECK(generate_one(ModelView(model), prompt, 8, 7) == expected);
  }
}

TEST_CASE("the cache grows beyond its first buffer") {
  const auto model = fixture("llama2");
  const auto prompt = some_tokens(250, 3);
  CHECK(generate_one(ModelView(model), prompt, 20) == greedy_without_cache(ModelView(model), prompt, 20));
}

TEST_CASE("prefill in chunks gives the logits of one pass") {
  for (const auto& name : fixture_names()) {
    for (const int chunk : {1, 5, 24}) {
      CAPTURE(name);
      CAPTURE(chunk);
      const auto model = fixture(name);
      const auto prompt = some_tokens(24, 4);
      KvCache cache(model.spec);
      ForwardContext context{ParamView(model.params), {}, std::nullopt};
      std::vector<mx::array> parts;
      for (int begin = 0; begin < 24; begin += chunk) {
        const int end = std::min(begin + chunk, 24);
        DecoderInput input{.tokens_BT = mx::array(prompt.data() + begin, {1, end - begin}, mx::int32)};
        input.attention.cache = &cache;
        parts.push_back(decoder_logits(model.spec, context, decoder_hidden(model.spec, context, input)));
        CHECK(cache.offset() == end);
      }
      const auto whole = mx::expand_dims(full_logits(ModelView(model), prompt), 0);
      CHECK(mx::max(mx::abs(mx::concatenate(parts, 1) - whole)).item<float>() < 1e-4F);
    }
  }
}

TEST_CASE("rows of unequal length in one batch get what each gets alone") {
  for (const std::string name : {"llama2", "mistral", "dynamic", "llama32"}) {
    CAPTURE(name);
    const auto model = fixture(name);
    const std::vector<Tokens> prompts{some_tokens(3, 5), some_tokens(29, 6), some_tokens(11, 7), {9}};
    for (const int chunk : {4, 512}) {
      TokenStream stream(ModelView(model), {}, chunk);
      const auto rows = generate(stream, prompts, 16);
      for (std::size_t row = 0; row < prompts.size(); ++row) {
        CAPTURE(row);
        CHECK(rows[row] == generate_one(ModelView(model), prompts[row], 16));
      }
    }
  }
}

TEST_CASE("rows that are done leave the batch without a trace") {
  const auto model = fixture("mistral");
  const std::vector<Tokens> prompts{some_tokens(3, 5), some_tokens(19, 6), some_tokens(11, 7)};
  TokenStream stream(ModelView(model), {});
  REQUIRE(stream.start(prompts));
  Tokens last = generate_one(ModelView(model), prompts[2], 12);
  for (int i = 0; i < 12; ++i) {
    const auto next = stream.next(i < 11);
    CHECK(next.back() == last[static_cast<std::size_t>(i)]);
    if (i == 3) {
      stream.keep_rows({0, 2});
    } else if (i == 6) {
      stream.keep_rows({1});
    }
  }
}

TEST_CASE("a text that goes on is read from where it parts from the one before") {
  const auto model = fixture("mistral");
  TokenStream stream(ModelView(model), {});
  const auto first = some_tokens(12, 8);
  const auto answer = generate(stream, {first}, 6).front();
  CHECK(stream.num_reused() == 0);

  const auto second = join(join(first, answer), some_tokens(5, 9));
  CHECK(generate(stream, {second}, 6).front() == generate_one(ModelView(model), second, 6));
  CHECK(stream.num_reused() >= 17); // the last generated token was never read

  auto edited = second;
  edited[4] = edited[4] == 7 ? 8 : 7;
  CHECK(generate(stream, {edited}, 6).front() == generate_one(ModelView(model), edited, 6));
  CHECK(stream.num_reused() == 4);

  // The same prompt again: its last token is read anew for the logits.
  CHECK(generate(stream, {edited}, 6).front() == generate_one(ModelView(model), edited, 6));
  CHECK(stream.num_reused() == static_cast<int>(edited.size()) - 1);

  stream.reset();
  CHECK(generate(stream, {edited}, 6).front() == generate_one(ModelView(model), edited, 6));
  CHECK(stream.num_reused() == 0);
}

TEST_CASE("states and windows that cannot be cut back are taken up at the end of the last prompt") {
  for (const std::string name : {"lfm2", "qwen3_5_text", "mixtral_window", "gemma3_text"}) {
    CAPTURE(name);
    const auto model = family_model(name);
    TokenStream stream(ModelView(model), {}, 100);
    auto text = family_tokens(500, 1);
    for (int turn = 0; turn < 2; ++turn) {
      CAPTURE(turn);
      const auto length = static_cast<int>(text.size());
      generate(stream, {text}, 300); // windows leave the prompt behind
      // The answer is written down otherwise than it was generated, and so is the prompt's very end.
      text.resize(text.size() - 4);
      text = join(text, family_tokens(30, 10 + turn));
      CHECK(generate(stream, {text}, 5).front() == generate_one(ModelView(model), text, 5));
      CHECK(stream.num_reused() >= length - 16);
      CHECK(stream.num_reused() <= length - 4);
    }
  }
}

TEST_CASE("texts join those that run, which go on undisturbed") {
  for (const std::string name : {"llama2", "mistral", "dynamic"}) {
    CAPTURE(name);
    const auto model = fixture(name);
    const auto view = ModelView(model);
    const std::vector<Tokens> texts{some_tokens(9, 1), some_tokens(21, 2), some_tokens(40, 3),
                                    some_tokens(2, 4)};
    std::vector<Tokens> expected;
    for (const auto& text : texts) {
      expected.push_back(generate_one(view, text, 20));
    }
    TokenStream stream(view, {}, 16);
    REQUIRE(stream.start({texts[0], texts[1]}));
    std::vector<Tokens> found(4);
    std::vector<std::size_t> rows{0, 1};
    const auto take = [&](int count) {
      for (int i = 0; i < count; ++i) {
        const auto tokens = stream.next(true);
        REQUIRE(tokens.size() == rows.size());
        for (std::size_t row = 0; row < rows.size(); ++row) {
          found[rows[row]].push_back(tokens[row]);
        }
      }
    };
    take(4);
    REQUIRE(stream.refill({1}, {{texts[2], 2}, {texts[3], 3}})); // longer and shorter than those that run
    rows = {1, 2, 3};
    take(6);
    stream.keep_rows({2}); // columns that only the longer ones had go too
    rows = {3};
    take(6);
    for (std::size_t i = 0; i < 4; ++i) {
      CAPTURE(i);
      CHECK(found[i] ==
            Tokens(expected[i].begin(), expected[i].begin() + static_cast<std::ptrdiff_t>(found[i].size())));
    }
    CHECK(found[3].size() == 12);
    int asked = 0;
    CHECK_FALSE(stream.refill({0}, {{texts[1], 1}}, [&] { return ++asked == 2; }));
    take(1); // a cancelled prompt leaves the others as they were
    CHECK(found[3].back() == expected[3][12]);
  }
}

TEST_CASE("what a stretched rope left in the cache is not used for a shorter text") {
  const auto model = fixture("dynamic");
  TokenStream stream(ModelView(model), {});
  const auto longer = some_tokens(40, 10);
  generate(stream, {longer}, 3);
  const Tokens shorter(longer.begin(), longer.begin() + 10);
  CHECK(generate(stream, {shorter}, 6).front() == generate_one(ModelView(model), shorter, 6));
}

TEST_CASE("one row and many rows may take turns") {
  const auto model = fixture("llama2");
  TokenStream stream(ModelView(model), {});
  const auto prompt = some_tokens(7, 11);
  const auto expected = generate_one(ModelView(model), prompt, 5);
  CHECK(generate(stream, {prompt}, 5).front() == expected);
  CHECK(generate(stream, {some_tokens(4, 12), prompt}, 5).back() == expected);
  CHECK(generate(stream, {prompt}, 5).front() == expected);
}

TEST_CASE("the repetition penalty looks at a row's own tokens, padded or not") {
  const auto model = fixture("llama2");
  const SamplerOptions penalty{.repetition_penalty = 1.8F, .repetition_context = 12};
  const std::vector<Tokens> prompts{some_tokens(4, 13), some_tokens(20, 14)};
  TokenStream together(ModelView(model), penalty);
  const auto rows = generate(together, prompts, 12);
  for (std::size_t row = 0; row < prompts.size(); ++row) {
    TokenStream alone(ModelView(model), penalty);
    CHECK(generate(alone, {prompts[row]}, 12).front() == rows[row]);
  }
  CHECK(rows[0] != generate_one(ModelView(model), prompts[0], 12));
}

TEST_CASE("a seed repeats a sampled text") {
  const auto model = fixture("llama2");
  const auto sampled = [&](std::uint64_t seed) {
    TokenStream stream(ModelView(model), {.temperature = 1.0F, .seed = seed});
    return generate(stream, {some_tokens(5, 15)}, 20).front();
  };
  CHECK(sampled(1) == sampled(1));
  CHECK(sampled(1) != sampled(2));
}

TEST_CASE("an adapter's answers are those of the merged weights") {
  auto model = fixture("llama2");
  const LoraConfig lora{.rank = 4, .scale = 2.0F};
  const auto layers = adaptable_layers(model.spec, -1, {});
  auto adapter = init_adapter(lora, layers, 1);
  Params merged = model.params;
  for (const auto& layer : layers) {
    const auto& name = layer.name;
    auto& b = adapter.at(name + ".lora_b");
    b = 0.2F * mx::random::normal(b.shape(), mx::float32, 0.0F, 1.0F, mx::random::key(name.size()));
    merged.at(name + ".weight") =
        merge_lora(lora, {adapter.at(name + ".lora_a"), b}, model.params.at(name + ".weight"));
  }
  const auto prompt = some_tokens(8, 16);
  const auto base = generate_one(ModelView(model), prompt, 16);
  const auto tuned = generate_one(ModelView(model.spec, model.params, adapter, lora), prompt, 16);
  model.params = merged;
  CHECK(tuned == generate_one(ModelView(model), prompt, 16));
  CHECK(tuned != base);
}

TEST_CASE("bad prompts are named") {
  const auto model = fixture("llama2");
  TokenStream stream(ModelView(model), {});
  CHECK_THROWS_WITH_AS(stream.start({{}}), "prompt: it is empty; give at least one token", ConfigError);
  CHECK_THROWS_WITH_AS(stream.start({{5, 128}}),
                       "prompt: token 128 is beyond the model's vocabulary of 128; tokenizer and model do not "
                       "belong together",
                       ModelError);
  CHECK_THROWS_AS(stream.start({{-1}}), ModelError);
  CHECK_THROWS_AS(stream.next(true), ConfigError);
}

TEST_CASE("a cancelled prefill starts nothing") {
  const auto model = fixture("llama2");
  TokenStream stream(ModelView(model), {}, 4);
  int asked = 0;
  CHECK_FALSE(stream.start({some_tokens(20, 17)}, [&] { return ++asked == 3; }));
  CHECK(asked == 3);
  const auto prompt = some_tokens(6, 18);
  CHECK(generate(stream, {prompt}, 4).front() == generate_one(ModelView(model), prompt, 4));
}
