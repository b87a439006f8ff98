#include "temper/infer/prompt_cache.h"

#include <doctest/doctest.h>

#include <fstream>

#include "infer/tiny.h"
#include "models/families.h"
#include "temper/base/error.h"
#include "temper/base/files.h"
#include "temper/infer/fingerprint.h"
#include "temper/infer/generate.h"
#include "temper/io/safetensors.h"

using namespace temper;
using namespace temper::test;

namespace {

const CacheOrigin kOrigin{"model", "", "float32"};

GenerationOptions eight() {
  GenerationOptions options;
  options.max_tokens = 8;
  options.stop_at_eos = false;
  return options;
}

Tokens joined(Tokens text, const Tokens& more) {
  text.insert(text.end(), more.begin(), more.end());
  return text;
}

} // namespace

TEST_CASE("a prompt's caches on disk go on as if it had been read") {
  const auto tokenizer = tiny_tokenizer();
  for (const std::string name : {"qwen3", "mixtral_window", "gemma3_text", "lfm2", "qwen3_5_text", "phi3_su"}) {
    CAPTURE(name);
    const auto model = family_model(name);
    const TemporaryFolder folder;
    const auto file = folder.path() / "prompt.safetensors";
    const auto beginning = family_tokens(60, 1);
    Generator first(ModelView(model), tokenizer);
    first.generate(joined(beginning, family_tokens(3, 2)), eight()); // the end will be another
    save_prompt_cache(file, kOrigin, first.cached(63), model.spec);

    const auto text = joined(beginning, family_tokens(7, 3));
    Generator second(ModelView(model), tokenizer);
    second.adopt(load_prompt_cache(file, kOrigin, model.spec));
    const auto found = second.generate(text, eight());
    CHECK(found.reused_tokens >= 63 - 16);
    CHECK(found.tokens == Generator(ModelView(model), tokenizer).generate(text, eight()).tokens);

    const auto other = family_tokens(30, 4);
    second.adopt(load_prompt_cache(file, kOrigin, model.spec));
    CHECK(second.generate(other, eight()).tokens ==
          Generator(ModelView(model), tokenizer).generate(other, eight()).tokens);
  }
}

TEST_CASE("a text whose angles have turned since is not kept") {
  const auto model = family_model("phi3_su"); // longrope: other angles beyond 24 tokens
  Generator generator(ModelView(model), tiny_tokenizer());
  generator.generate(family_tokens(20, 1), eight());
  CHECK(generator.cached(20).tokens.empty());
}

TEST_CASE("a cache of something else, or a damaged one, is refused") {
  const auto model = fixture("llama2");
  const TemporaryFolder folder;
  const auto file = folder.path() / "prompt.safetensors";
  Generator generator(ModelView(model), tiny_tokenizer());
  generator.generate(some_tokens(12, 1), eight());
  save_prompt_cache(file, kOrigin, generator.cached(12), model.spec);
  const auto refuses = [&](const CacheOrigin& origin, const std::string& message) {
    CHECK_THROWS_WITH_AS(load_prompt_cache(file, origin, model.spec), (file.string() + ": " + message).c_str(),
                         ModelError);
  };
  refuses({"another", "", "float32"}, "the prompt cache of another model; remove it, or name another file");
  refuses({"model", "mine", "float32"},
          "a prompt cache made without this adapter; remove it, or name another file");
  refuses({"model", "", "bfloat16"},
          "a prompt cache made in float32, where the model now computes in bfloat16; "
          "remove it, or name another file");
  auto tensors = load_safetensors(file);
  mx::eval(values(tensors));
  const auto metadata = read_safetensors_header(file).metadata;
  auto without = tensors;
  without.erase("layers.1.values");
  save_safetensors(file, without, metadata);
  refuses(kOrigin, "tensor layers.1.values is missing; remove the file, it is damaged");
  tensors.at("tokens") = mx::array({1, 2, 3}, mx::int32);
  save_safetensors(file, tensors, metadata);
  CHECK_THROWS_AS(load_prompt_cache(file, kOrigin, model.spec), ModelError);
  save_safetensors(file, tensors);
  refuses(kOrigin, "not a prompt cache of temper; name another file");
  const auto bytes = read_file(file);
  write_file_atomic(file, std::string_view(bytes).substr(0, bytes.size() / 2));
  CHECK_THROWS_AS(load_prompt_cache(file, kOrigin, model.spec), ModelError);
  CHECK_THROWS_AS(load_prompt_cache(folder.path() / "none.safetensors", kOrigin, model.spec), IoError);
}

TEST_CASE("a fingerprint changes with the weights, the config and the tokenizer") {
  const TemporaryFolder folder;
  const auto write = [&](const std::string& name, const std::string& bytes) {
    write_file_atomic(folder.path() / name, std::string_view(bytes));
    return weights_fingerprint(folder.path());
  };
  std::string weights(5 << 20, 'w');
  write("config.json", "{}");
  write("tokenizer.json", "{}");
  const auto first = write("model.safetensors", weights);
  CHECK(first.size() == 16);
  CHECK(write("README.md", "text") == first);
  weights.back() = 'x';
  CHECK(write("model.safetensors", weights) != first);
  weights.back() = 'w';
  CHECK(write("model.safetensors", weights) == first);
  CHECK(write("config.json", "{ }") != first);
  CHECK(write("config.json", "{}") == first);
  CHECK(write("tokenizer.json", "[]") != first);
  CHECK(weights_fingerprint("").empty());
  CHECK(weights_fingerprint(folder.path() / "model.safetensors") != first);
}
