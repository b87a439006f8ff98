// What the tests that hold for every family share: the fixtures of tests/golden/make_family_fixtures.py.
#pragma once

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "temper/data/loader.h"
#include "temper/io/model_folder.h"
#include "temper/io/safetensors.h"
#include "temper/models/decoder.h"

namespace temper::test {

inline const std::filesystem::path kFamilyFixtures = std::filesystem::path(TEMPER_TEST_DATA) / "families";

// The fixtures' folders, all of them.
inline const std::vector<std::string>& family_names() {
  static const auto kNames = [] {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(kFamilyFixtures)) {
      names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }();
  return kNames;
}

inline Model family_model(const std::string& name) {
  return load_model(kFamilyFixtures / name, "float32");
}

inline Params family_expected(const std::string& name, const std::string& file = "expected") {
  auto tensors = load_safetensors(kFamilyFixtures / name / (file + ".safetensors"));
  mx::eval(values(tensors));
  return tensors;
}

inline std::vector<std::int32_t> family_tokens(int count, int seed) {
  std::vector<std::int32_t> tokens;
  auto state = static_cast<std::uint32_t>(seed) * 2654435761U + 1U;
  for (int i = 0; i < count; ++i) {
    state = state * 1664525U + 1013904223U;
    tokens.push_back(static_cast<std::int32_t>(4 + (state >> 16) % 88));
  }
  return tokens;
}

// Documents of these lengths, the first third of each a prompt, one a row or packed into rows of up to 96.
inline HostBatch family_batch(const std::vector<int>& lengths, bool packing) {
  std::vector<Example> examples;
  for (const int length : lengths) {
    Example example{family_tokens(length, length), {}};
    for (int i = 0; i < length; ++i) {
      example.supervised.push_back(i >= length / 3 ? 1 : 0);
    }
    examples.push_back(example);
  }
  LoaderOptions options;
  options.batch_size = static_cast<int>(lengths.size());
  options.max_seq_length = 96;
  options.packing = packing;
  options.width_multiple = 16;
  options.shuffle = false;
  options.prefetch = 0;
  return BatchLoader(make_token_dataset(examples), options).next();
}

} // namespace temper::test
