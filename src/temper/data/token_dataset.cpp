#include "temper/data/token_dataset.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "temper/base/error.h"
#include "temper/data/content_hash.h"

namespace temper {
namespace {

class MemoryDataset : public TokenDataset {
 public:
  MemoryDataset(std::vector<Example> examples, std::vector<std::int64_t> lines)
      : examples_(std::move(examples)), lines_(std::move(lines)) {
    ContentHash hash;
    for (const auto& example : examples_) {
      if (example.tokens.size() != example.supervised.size()) {
        throw DataError("example " + std::to_string(&example - examples_.data()) + " has " +
                        std::to_string(example.tokens.size()) + " tokens but " +
                        std::to_string(example.supervised.size()) +
                        " supervision marks; give one mark a token");
      }
      hash.add_value(example.tokens.size());
      hash.add(example.tokens.data(), example.tokens.size() * sizeof(std::int32_t));
      hash.add(example.supervised.data(), example.supervised.size());
    }
    fingerprint_ = hash.hex();
  }

  std::size_t size() const override {
    return examples_.size();
  }
  ExampleView operator[](std::size_t index) const override {
    return {examples_[index].tokens, examples_[index].supervised};
  }
  std::size_t length(std::size_t index) const override {
    return examples_[index].tokens.size();
  }
  std::int64_t line(std::size_t index) const override {
    return lines_.empty() ? 0 : lines_[index];
  }
  const std::string& fingerprint() const override {
    return fingerprint_;
  }

 private:
  std::vector<Example> examples_;
  std::vector<std::int64_t> lines_;
  std::string fingerprint_;
};

class SubsetDataset : public TokenDataset {
 public:
  SubsetDataset(std::shared_ptr<const TokenDataset> base, std::vector<std::uint32_t> indices)
      : base_(std::move(base)), indices_(std::move(indices)) {
    for (const auto index : indices_) {
      if (index >= base_->size()) {
        throw DataError("example " + std::to_string(index) + " is not in a data set of " +
                        std::to_string(base_->size()) + " examples");
      }
    }
    ContentHash hash;
    hash.add_text(base_->fingerprint());
    hash.add(indices_.data(), indices_.size() * sizeof(std::uint32_t));
    fingerprint_ = hash.hex();
  }

  std::size_t size() const override {
    return indices_.size();
  }
  ExampleView operator[](std::size_t index) const override {
    return (*base_)[indices_[index]];
  }
  std::size_t length(std::size_t index) const override {
    return base_->length(indices_[index]);
  }
  std::int64_t line(std::size_t index) const override {
    return base_->line(indices_[index]);
  }
  const std::string& fingerprint() const override {
    return fingerprint_;
  }

 private:
  std::shared_ptr<const TokenDataset> base_;
  std::vector<std::uint32_t> indices_;
  std::string fingerprint_;
};

class Concatenation : public TokenDataset {
 public:
  explicit Concatenation(std::vector<std::shared_ptr<const TokenDataset>> parts) : parts_(std::move(parts)) {
    ContentHash hash;
    for (const auto& part : parts_) {
      hash.add_text(part->fingerprint());
      size_ += part->size();
      ends_.push_back(size_);
    }
    if (size_ > std::numeric_limits<std::uint32_t>::max()) {
      throw DataError("the data set has more than 4,294,967,295 examples; train on a part of it");
    }
    fingerprint_ = hash.hex();
  }

  std::size_t size() const override {
    return size_;
  }
  ExampleView operator[](std::size_t index) const override {
    const auto [part, within] = place(index);
    return (*parts_[part])[within];
  }
  std::size_t length(std::size_t index) const override {
    const auto [part, within] = place(index);
    return parts_[part]->length(within);
  }
  std::int64_t line(std::size_t index) const override {
    const auto [part, within] = place(index);
    return parts_[part]->line(within);
  }
  const std::string& fingerprint() const override {
    return fingerprint_;
  }

 private:
  std::pair<std::size_t, std::size_t> place(std::size_t index) const {
    const auto part = static_cast<std::size_t>(std::ranges::upper_bound(ends_, index) - ends_.begin());
    return {part, part == 0 ? index : index - ends_[part - 1]};
  }

  std::vector<std::shared_ptr<const TokenDataset>> parts_;
  std::vector<std::size_t> ends_; // of each part, in examples
  std::size_t size_ = 0;
  std::string fingerprint_;
};

} // namespace

std::int64_t TokenDataset::line(std::size_t /*index*/) const {
  return 0;
}

std::shared_ptr<const TokenDataset> make_token_dataset(std::vector<Example> examples,
                                                       std::vector<std::int64_t> lines) {
  return std::make_shared<MemoryDataset>(std::move(examples), std::move(lines));
}

std::shared_ptr<const TokenDataset> make_subset(std::shared_ptr<const TokenDataset> base,
                                                std::vector<std::uint32_t> indices) {
  return std::make_shared<SubsetDataset>(std::move(base), std::move(indices));
}

std::shared_ptr<const TokenDataset> make_concatenation(std::vector<std::shared_ptr<const TokenDataset>> parts) {
  if (parts.size() == 1) {
    return std::move(parts.front());
  }
  return std::make_shared<Concatenation>(std::move(parts));
}

} // namespace temper
