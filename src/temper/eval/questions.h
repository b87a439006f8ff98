// A data set's prompts with the answers it gives them, and how near a model's own answers come.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "temper/data/data_options.h"
#include "temper/infer/generate.h"
#include "temper/text/tokenizer.h"

namespace temper {

struct Question {
  std::string file;
  std::int64_t line = 0;            // in the file
  std::string text;                 // what is asked: the prompt, or the last message before the answer
  std::vector<std::int32_t> prompt; // everything before the answer, rendered as for training
  std::string reference;            // the answer: the completion, or the last assistant message
};

// The first `limit` (0: all) rows of the files that ask something. Malformed rows are skipped if the options
// allow it. Throws DataError (file:line) for a row that can't be used; for plain text, which asks nothing.
std::vector<Question> read_questions(const std::vector<std::filesystem::path>& files,
                                     const Tokenizer& tokenizer, const DataOptions& options,
                                     std::size_t limit = 0);

struct AnswerScores {
  std::vector<std::string> answers;                    // in the questions' order
  std::vector<std::pair<std::string, double>> metrics; // by name (text_metrics.h), in the order asked for
  std::int64_t tokens = 0;                             // generated
  double seconds = 0;
  bool cancelled = false; // the metrics are then of what was answered by then

  double tokens_per_second() const;
};

// Answers every question, many at once, and scores the answers. `on_answer`: answers so far. Throws
// ConfigError if a metric is unknown, and as generate_batch() does.
AnswerScores answer_questions(const ModelView& model, const std::shared_ptr<const Tokenizer>& tokenizer,
                              const std::vector<Question>& questions, const GenerationOptions& options,
                              const std::vector<std::string>& metrics,
                              const std::function<void(std::size_t done)>& on_answer = nullptr);

} // namespace temper
