// Which files a user's --data stands for, and which of them train, validate and test.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace temper {

// The files of each split, in order; empty where there is none.
struct SplitFiles {
  std::vector<std::filesystem::path> train;
  std::vector<std::filesystem::path> valid;
  std::vector<std::filesystem::path> test;

  const std::vector<std::filesystem::path>& of(const std::string& split) const;
};

// `data`: a folder, a file, a pattern (base/glob.h), hf:// or s3://, or several of these with commas between.
// One file alone is train, whatever its name. In a folder (or its data/) the splits are the files called
// train; valid, validation, val, dev; test, each whole or in numbered parts (train-00000-of-00003.parquet).
// Of patterns and lists the files so called are that split, all others train.
// Throws DataError if nothing is there, a part is missing, or one split has two files; IoError as resolve_data.
SplitFiles find_splits(const std::filesystem::path& data);

// The files of one split by any name ("train_sft"), whole or in parts, in a folder or its data/; all files of
// that split where `data` is no folder. Empty if there is none.
std::vector<std::filesystem::path> find_split(const std::filesystem::path& data, const std::string& split);

// The files to measure on: one file itself; else `split` (train, valid or test); if that is empty, test or
// else valid. Throws DataError if there is none.
std::vector<std::filesystem::path> split_files(const std::filesystem::path& data, const std::string& split);

// "d/train-00000-of-00003.parquet and 2 more".
std::string describe_files(const std::vector<std::filesystem::path>& files);

} // namespace temper
