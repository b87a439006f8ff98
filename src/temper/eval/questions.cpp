#include "temper/eval/questions.h"

#include <algorithm>
#include <optional>

#include "temper/base/clock.h"
#include "temper/base/error.h"
#include "temper/base/json_text.h"
#include "temper/data/find_splits.h"
#include "temper/data/row_source.h"
#include "temper/data/tokenize.h"
#include "temper/eval/text_metrics.h"
#include "temper/infer/generate_batch.h"
#include "temper/infer/prompt.h"

namespace temper {
namespace {

Question chat_question(const Tokenizer& tokenizer, Json messages, const Json& tools) {
  auto end = messages.size();
  while (end > 0 && messages[end - 1].value("role", "") != "assistant") {
    --end;
  }
  if (end < 2) {
    throw RowError("no message asks for an assistant's answer");
  }
  Question question;
  question.reference = text_at(messages[end - 1], "content");
  question.text = text_at(messages[end - 2], "content");
  messages.erase(messages.begin() + static_cast<std::ptrdiff_t>(end - 1), messages.end());
  RenderOptions render;
  render.tools = tools;
  try {
    question.prompt = encode_messages(tokenizer, messages, render);
  } catch (const DataError& error) {
    throw RowError(std::string("the chat template refuses it: ") + error.what());
  }
  return question;
}

Question make_question(const Tokenizer& tokenizer, const Record& record) {
  if (!record.messages.is_null()) {
    return chat_question(tokenizer, record.messages, record.tools);
  }
  if (!record.prompt) {
    throw RowError("plain text asks nothing; answers are scored on chats or prompts with completions");
  }
  if (tokenizer.chat_template() != nullptr) {
    return chat_question(tokenizer, record.prompt_messages(), record.tools);
  }
  Question question;
  question.reference = *record.completion;
  question.text = *record.prompt;
  question.prompt = encode_plain(tokenizer, *record.plain_prompt);
  return question;
}

} // namespace

std::vector<Question> read_questions(const std::vector<std::filesystem::path>& files,
                                     const Tokenizer& tokenizer, const DataOptions& options,
                                     std::size_t limit) {
  const auto source = open_rows(files, options.format.text_feature);
  std::vector<Question> questions;
  std::optional<std::size_t> file;
  RowFormat format = RowFormat::text;
  RawRow raw;
  while ((limit == 0 || questions.size() < limit) && source->next(raw)) {
    if (file != raw.file) {
      file = raw.file;
      format = choose_format(files[raw.file], options.format);
    }
    try {
      auto question = make_question(tokenizer, read_record(source->parse(raw), format, options.format));
      question.file = files[raw.file].string();
      question.line = raw.line;
      questions.push_back(std::move(question));
    } catch (const RowError& error) {
      if (!options.skip_bad_rows || format == RowFormat::text) {
        throw DataError(files[raw.file].string() + ":" + std::to_string(raw.line) + ": " + error.what());
      }
    }
  }
  if (questions.empty()) {
    throw DataError(describe_files(files) + ": no row asks anything");
  }
  return questions;
}

double AnswerScores::tokens_per_second() const {
  return seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0;
}

AnswerScores answer_questions(const ModelView& model, const std::shared_ptr<const Tokenizer>& tokenizer,
                              const std::vector<Question>& questions, const GenerationOptions& options,
                              const std::vector<std::string>& metrics,
                              const std::function<void(std::size_t)>& on_answer) {
  for (const auto& name : metrics) {
    compute_metric(name, {}, {}); // an unknown name is refused before the work
  }
  std::vector<std::vector<std::int32_t>> prompts;
  prompts.reserve(questions.size());
  for (const auto& question : questions) {
    prompts.push_back(question.prompt);
  }
  const Stopwatch watch;
  std::size_t done = 0;
  const auto results =
      generate_batch(model, tokenizer, prompts, options, [&](std::size_t, const GenerationResult&) {
        ++done;
        if (on_answer) {
          on_answer(done);
        }
      });
  AnswerScores scores;
  scores.seconds = watch.seconds();
  std::vector<std::string> answered;
  std::vector<std::string> references;
  for (std::size_t i = 0; i < results.size(); ++i) {
    scores.answers.push_back(results[i].text);
    scores.tokens += static_cast<std::int64_t>(results[i].tokens.size());
    if (results[i].finish_reason == "cancelled") {
      scores.cancelled = true;
      continue;
    }
    answered.push_back(results[i].text);
    references.push_back(questions[i].reference);
  }
  for (const auto& name : metrics) {
    scores.metrics.emplace_back(name, compute_metric(name, answered, references));
  }
  return scores;
}

} // namespace temper
