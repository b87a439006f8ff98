// What a row means: chats, prompt and completion, or plain text, from the shapes that data sets come in.
// Formats, with examples: docs/guide/data.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "temper/base/json.h"
#include "temper/data/row_source.h"

namespace temper {

enum class RowFormat {
  chat,       // {"messages": [{"role", "content"}, ...], "tools"?}
  sharegpt,   // {"conversations": [{"from", "value"}, ...], "system"?, "tools"?}
  alpaca,     // {"instruction", "input"?, "output", "system"?}
  completion, // {"prompt", "completion", "tools"?}: two strings or two lists of messages
  text,       // {"text"}
  template_,  // any fields, put together by prompt_template and completion_template
};

const char* to_string(RowFormat format);
// Throws ConfigError for a name that is none; nullopt for "auto".
std::optional<RowFormat> row_format_from(const std::string& name);

// RunConfig's keys of the same names.
struct FormatOptions {
  std::string data_format = "auto";
  std::string prompt_feature = "prompt";
  std::string completion_feature = "completion";
  std::string text_feature = "text";
  std::string chat_feature = "messages";
  std::string prompt_template;
  std::string completion_template;
  std::string system_prompt;  // put before chats that have none
  bool compat_mlx_lm = false; // messages go to the template untouched
};

// A row, understood. Of `messages`, `prompt` with `completion`, and `text` exactly one is set.
struct Record {
  Json messages = nullptr;      // array of {role, content, tool_calls? ...}
  Json tools = nullptr;         // array of tool schemas
  std::size_t first_target = 0; // messages before this one are context, whoever speaks
  std::optional<std::string> prompt;
  std::optional<std::string> plain_prompt; // the prompt for a model without a chat template
  std::optional<std::string> completion;
  std::optional<std::string> text;
  std::string system; // for prompt_messages()

  // Prompt and completion as a user's and an assistant's message.
  Json prompt_messages() const;
};

// The format whose fields the row has; nullopt if none fits. With templates set: always template_.
std::optional<RowFormat> detect_format(const Json& row, const FormatOptions& options);

// Reads the row as `format`. Throws RowError saying which field is missing or of the wrong type.
Record read_record(const Json& row, RowFormat format, const FormatOptions& options);
// The same for a row of a file whose rows are `format`: one of another format is told as such.
Record read_record_as(const Json& row, RowFormat format, const FormatOptions& options);

// "the row has 'a', 'b'": what a message about a row says of it.
std::string describe_keys(const Json& row);

// Equal for rows that train the same: of what is said, not of how the row writes it down.
std::uint64_t record_hash(const Record& record);

} // namespace temper
