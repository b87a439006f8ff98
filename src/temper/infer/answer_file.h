// Answers written as they are finished, so that a run that is killed can go on; in the prompts' order in the
// end. Format: docs/formats/answers.md.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "temper/base/json.h"

namespace temper {

class AnswerFile {
 public:
  // Answers to `count` prompts, kept in "<path>.partial" until finish(). `run` tells runs apart whose answers
  // would differ. With `resume` the answers of an earlier run that was cut short count as given. Throws
  // ConfigError if there are such answers without `resume`, or if they are another run's; IoError.
  AnswerFile(std::filesystem::path path, const std::string& run, std::size_t count, bool resume);
  ~AnswerFile();
  AnswerFile(const AnswerFile&) = delete;
  AnswerFile& operator=(const AnswerFile&) = delete;

  bool has(std::size_t index) const {
    return places_.at(index).has_value();
  }
  std::size_t num_answers() const {
    return num_answers_;
  }
  // Appends the answer, on one line. Throws IoError.
  void add(std::size_t index, const Json& answer);
  // Writes every answer that is there, in order, to `path`, and removes the partial file. Atomic. Throws
  // IoError.
  void finish();

  static std::filesystem::path partial_path(const std::filesystem::path& path);

 private:
  struct Place {
    std::uint64_t offset; // bytes into the partial file
    std::uint64_t size;
  };

  void take_up(const std::string& run);
  void append(const std::string& line);

  std::filesystem::path path_;
  std::filesystem::path partial_;
  std::vector<std::optional<Place>> places_;
  std::size_t num_answers_ = 0;
  std::uint64_t end_ = 0; // bytes of whole lines in the partial file
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_{nullptr, &std::fclose};
};

} // namespace temper
