#include "temper/data/row_format.h"

#include <array>
#include <utility>

#include "temper/base/error.h"
#include "temper/data/content_hash.h"
#include "temper/data/messages.h"

namespace temper {
namespace {

constexpr std::array<std::pair<RowFormat, const char*>, 6> kNames = {{
    {RowFormat::chat, "chat"},
    {RowFormat::sharegpt, "sharegpt"},
    {RowFormat::alpaca, "alpaca"},
    {RowFormat::completion, "completion"},
    {RowFormat::text, "text"},
    {RowFormat::template_, "template"},
}};

bool uses_template(const FormatOptions& options) {
  return !options.prompt_template.empty() || !options.completion_template.empty();
}

const Json& field(const Json& row, const std::string& key) {
  const auto found = row.find(key);
  if (found == row.end()) {
    throw RowError("no field '" + key + "' (" + describe_keys(row) + ")");
  }
  return *found;
}

std::string string_field(const Json& row, const std::string& key) {
  const Json& value = field(row, key);
  if (!value.is_string()) {
    throw RowError("field '" + key + "' must be a string, not " + value.type_name());
  }
  return value.get<std::string>();
}

std::string optional_string(const Json& row, const std::string& key) {
  return row.contains(key) && !row.at(key).is_null() ? string_field(row, key) : std::string();
}

// Lists may come as JSON text, which is how CSV and some data sets hold them.
Json list_field(const Json& row, const std::string& key) {
  const Json& value = field(row, key);
  Json list = value;
  if (value.is_string()) {
    list = Json::parse(value.get_ref<const std::string&>(), nullptr, false);
  }
  if (!list.is_array()) {
    throw RowError("field '" + key + "' must be a list, not " + value.type_name());
  }
  return list;
}

Json tools_of(const Json& row) {
  const auto found = row.find("tools");
  if (found == row.end() || found->is_null() || *found == "") {
    return nullptr;
  }
  Json tools = list_field(row, "tools");
  return tools.empty() ? Json(nullptr) : tools;
}

Json chat_messages(Json messages, const std::string& key, const std::string& system,
                   const FormatOptions& options) {
  if (messages.empty()) {
    throw RowError("'" + key + "' is empty");
  }
  if (options.compat_mlx_lm) {
    return messages;
  }
  Json clean = clean_messages(messages, key);
  const std::string& prompt = system.empty() ? options.system_prompt : system;
  if (!prompt.empty() && clean[0]["role"] != "system" && clean[0]["role"] != "developer") {
    clean.insert(clean.begin(), Json{{"role", "system"}, {"content", prompt}});
  }
  return clean;
}

Record read_chat(const Json& row, const std::string& key, const FormatOptions& options) {
  Record record;
  record.messages = chat_messages(list_field(row, key), key, optional_string(row, "system"), options);
  record.tools = tools_of(row);
  return record;
}

// With a chat template the instruction is the user's message; without one, headers tell the parts apart.
Record read_alpaca(const Json& row, const FormatOptions& options) {
  const auto instruction = string_field(row, "instruction");
  const auto input = optional_string(row, "input");
  const auto system = optional_string(row, "system");
  Record record;
  record.completion = string_field(row, "output");
  record.system = system.empty() ? options.system_prompt : system;
  record.prompt = input.empty() ? instruction : instruction + "\n\n" + input;
  record.plain_prompt = (system.empty() ? "" : system + "\n\n") + "### Instruction:\n" + instruction +
                        (input.empty() ? "" : "\n\n### Input:\n" + input) + "\n\n### Response:\n";
  return record;
}

Record read_completion(const Json& row, const FormatOptions& options) {
  const Json& prompt = field(row, options.prompt_feature);
  const Json& completion = field(row, options.completion_feature);
  Record record;
  record.tools = tools_of(row);
  record.system = options.system_prompt;
  if (!prompt.is_array() && !completion.is_array()) {
    record.prompt = string_field(row, options.prompt_feature);
    record.completion = string_field(row, options.completion_feature);
    record.plain_prompt = record.prompt;
    return record;
  }
  Json messages = list_field(row, options.prompt_feature);
  const std::size_t num_prompt = messages.size();
  for (auto& message : list_field(row, options.completion_feature)) {
    messages.push_back(message);
  }
  const std::size_t num_raw = messages.size();
  record.messages =
      chat_messages(std::move(messages), options.prompt_feature, optional_string(row, "system"), options);
  record.first_target = num_prompt + record.messages.size() - num_raw;
  return record;
}

// "{field}" becomes the row's field; "{{" and "}}" are braces.
std::string fill_template(const std::string& pattern, const Json& row) {
  std::string text;
  for (std::size_t at = 0; at < pattern.size(); ++at) {
    const char c = pattern[at];
    const bool doubled = at + 1 < pattern.size() && pattern[at + 1] == c;
    if ((c == '{' || c == '}') && doubled) {
      text.push_back(c);
      ++at;
    } else if (c == '{') {
      const auto end = pattern.find('}', at);
      if (end == std::string::npos) {
        throw ConfigError("the template \"" + pattern + "\" has a { without }; write {{ for a brace");
      }
      const Json& value = field(row, pattern.substr(at + 1, end - at - 1));
      if (value.is_structured()) {
        throw RowError("field '" + pattern.substr(at + 1, end - at - 1) +
                       "' of the template must be a string or a number, not " + value.type_name());
      }
      text += value.is_string() ? value.get<std::string>() : value.is_null() ? "" : value.dump();
      at = end;
    } else {
      text.push_back(c);
    }
  }
  return text;
}

Record read_template(const Json& row, const FormatOptions& options) {
  Record record;
  record.system = options.system_prompt;
  if (options.prompt_template.empty() || options.completion_template.empty()) {
    record.text = fill_template(options.prompt_template + options.completion_template, row);
  } else {
    record.prompt = fill_template(options.prompt_template, row);
    record.completion = fill_template(options.completion_template, row);
    record.plain_prompt = record.prompt;
  }
  return record;
}

} // namespace

const char* to_string(RowFormat format) {
  for (const auto& [value, name] : kNames) {
    if (value == format) {
      return name;
    }
  }
  return "unknown";
}

std::optional<RowFormat> row_format_from(const std::string& name) {
  if (name == "auto") {
    return std::nullopt;
  }
  for (const auto& [value, known] : kNames) {
    if (name == known) {
      return value;
    }
  }
  throw ConfigError("data_format: '" + name +
                    "' is none of auto, chat, sharegpt, alpaca, completion, text, template");
}

std::string describe_keys(const Json& row) {
  constexpr std::size_t kShown = 8;
  if (row.empty()) {
    return "the row has no fields";
  }
  std::string text = "the row has ";
  std::size_t shown = 0;
  for (const auto& [key, value] : row.items()) {
    if (shown == kShown) {
      return text + " ...";
    }
    text += (shown++ == 0 ? "'" : ", '") + key + "'";
  }
  return text;
}

Json Record::prompt_messages() const {
  Json built = Json::array();
  if (!system.empty()) {
    built.push_back({{"role", "system"}, {"content", system}});
  }
  built.push_back({{"role", "user"}, {"content", *prompt}});
  built.push_back({{"role", "assistant"}, {"content", *completion}});
  return built;
}

std::uint64_t record_hash(const Record& record) {
  ContentHash hash;
  if (record.text) {
    return hash.add_text("text").add_text(*record.text).value();
  }
  const Json messages = record.messages.is_null() ? record.prompt_messages() : record.messages;
  for (const auto& message : messages) {
    for (const char* key : {"role", "content", "tool_calls"}) {
      const auto found = message.find(key);
      hash.add_text(found == message.end() ? "" : dump(*found));
    }
  }
  return hash.add_text(dump(record.tools)).value();
}

std::optional<RowFormat> detect_format(const Json& row, const FormatOptions& options) {
  if (uses_template(options)) {
    return RowFormat::template_;
  }
  if (row.contains(options.prompt_feature) && row.contains(options.completion_feature)) {
    return RowFormat::completion;
  }
  if (row.contains(options.chat_feature)) {
    return RowFormat::chat;
  }
  if (row.contains("conversations")) {
    return RowFormat::sharegpt;
  }
  if (row.contains("instruction") && row.contains("output")) {
    return RowFormat::alpaca;
  }
  if (row.contains(options.text_feature)) {
    return RowFormat::text;
  }
  return std::nullopt;
}

Record read_record(const Json& row, RowFormat format, const FormatOptions& options) {
  switch (format) {
    case RowFormat::chat:
      return read_chat(row, options.chat_feature, options);
    case RowFormat::sharegpt:
      return read_chat(row, "conversations", options);
    case RowFormat::alpaca:
      return read_alpaca(row, options);
    case RowFormat::completion:
      return read_completion(row, options);
    case RowFormat::text: {
      Record record;
      record.text = string_field(row, options.text_feature);
      return record;
    }
    case RowFormat::template_:
      break;
  }
  return read_template(row, options);
}

Record read_record_as(const Json& row, RowFormat format, const FormatOptions& options) {
  try {
    return read_record(row, format, options);
  } catch (const RowError&) {
    const auto other = detect_format(row, options);
    if (other && *other != format) {
      throw RowError(std::string("this row is ") + to_string(*other) + " where the others are " +
                     to_string(format) + "; formats can't be mixed in a file");
    }
    throw;
  }
}

} // namespace temper
