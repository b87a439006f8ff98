// A tokenized split: examples by index, memory-mapped when it comes from the token cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "temper/data/example.h"

namespace temper {

class TokenDataset {
 public:
  virtual ~TokenDataset() = default;
  virtual std::size_t size() const = 0;
  virtual ExampleView operator[](std::size_t index) const = 0;
  // Tokens of example `index`, without touching the example itself.
  virtual std::size_t length(std::size_t index) const = 0;
  // The line of the source file where the example's row starts; 0 if it came from no file.
  virtual std::int64_t line(std::size_t index) const;
  // Changes whenever the rows, the tokenizer or the rendering change.
  virtual const std::string& fingerprint() const = 0;
};

// Examples held in memory: tests, synthetic benches, a caller's own data.
// `lines`, if given, holds line() of each. Throws DataError if an example has not one supervision mark a
// token.
std::shared_ptr<const TokenDataset> make_token_dataset(std::vector<Example> examples,
                                                       std::vector<std::int64_t> lines = {});

// The examples `indices` of `base`, in that order, without copying them.
// Throws DataError if an index is beyond `base`.
std::shared_ptr<const TokenDataset> make_subset(std::shared_ptr<const TokenDataset> base,
                                                std::vector<std::uint32_t> indices);

// All of the parts' examples, one part after another, without copying them. One part alone is itself.
// Throws DataError for 2^32 examples or more.
std::shared_ptr<const TokenDataset> make_concatenation(std::vector<std::shared_ptr<const TokenDataset>> parts);

} // namespace temper
