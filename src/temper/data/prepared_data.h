// From a run's configuration to the tokenized splits it trains and is measured on.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "temper/config/run_config.h"
#include "temper/data/split_report.h"
#include "temper/data/token_dataset.h"
#include "temper/text/tokenizer.h"

namespace temper {

struct PreparedData {
  std::shared_ptr<const TokenDataset> train; // null where the run has no such split
  std::shared_ptr<const TokenDataset> valid;
  std::shared_ptr<const TokenDataset> test;
  std::vector<SplitReport> reports; // of the splits there are, in that order
  std::string fingerprint;          // of all splits together

  Json to_json() const; // fingerprint and reports, for the manifest
};

// Prepares what the run needs: train and valid if config.train, test if config.test. From a folder of
// train/valid/test files or one file; splits valid_fraction off train if there is no valid file; keeps
// dataset_size shuffled training examples. Logs a line a split, and its warnings.
// `model_vocab_size`: rows of the model's embedding; 0: not checked.
// Throws DataError (file:line) for what is wrong with the data, ConfigError for a wrong option.
PreparedData prepare_data(const RunConfig& config, std::shared_ptr<const Tokenizer> tokenizer,
                          int model_vocab_size);

struct PreparedSplit {
  std::shared_ptr<const TokenDataset> data;
  SplitReport report;
};

// One split for evaluation: the files that split_files (find_splits.h) finds. Throws as prepare_data does.
PreparedSplit prepare_split(const std::filesystem::path& data, const std::string& split,
                            const RunConfig& config, const std::shared_ptr<const Tokenizer>& tokenizer,
                            int model_vocab_size);

} // namespace temper
