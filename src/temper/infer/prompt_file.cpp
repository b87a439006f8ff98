#include "temper/infer/prompt_file.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "temper/base/error.h"
#include "temper/data/messages.h"
#include "temper/data/row_format.h"
#include "temper/data/row_source.h"

namespace temper {
namespace {

// More bytes than any token stands for: text beyond context times this need not be tokenized to be refused.
constexpr std::size_t kMaxTokenBytes = 1024;

std::optional<std::string> text_field(const Json& row, const char* key) {
  const auto found = row.find(key);
  if (found == row.end() || found->is_null()) {
    return std::nullopt;
  }
  if (!found->is_string()) {
    throw RowError(std::string("field '") + key + "' must be a string, not " + found->type_name());
  }
  return found->get<std::string>();
}

int count_field(const Json& row, const char* key) {
  const auto found = row.find(key);
  if (found == row.end() || found->is_null()) {
    return 0;
  }
  const bool whole = found->is_number_integer() || found->is_number_unsigned();
  if (!whole || *found < 1 || *found > std::numeric_limits<int>::max()) {
    throw RowError(std::string("field '") + key + "' must be a whole number of at least 1, not " +
                   dump(*found));
  }
  return found->get<int>();
}

Json id_field(const Json& row) {
  const auto found = row.find("id");
  if (found == row.end() || found->is_null()) {
    return nullptr;
  }
  if (!found->is_string() && !found->is_number()) {
    throw RowError(std::string("field 'id' must be a string or a number, not ") + found->type_name());
  }
  return *found;
}

Json messages_field(const Json& row, const std::string& system) {
  const auto& given = row.at("messages");
  if (!given.is_array() || given.empty()) {
    throw RowError("field 'messages' must be a list of messages");
  }
  auto messages = clean_messages(given, "messages");
  if (!system.empty() && messages.front().value("role", "") != "system") {
    messages.insert(messages.begin(), Json{{"role", "system"}, {"content", system}});
  }
  return messages;
}

void check_size(std::size_t bytes, int context) {
  if (context > 0 && bytes / kMaxTokenBytes > static_cast<std::size_t>(context)) {
    throw RowError("the prompt has " + std::to_string(bytes) + " bytes, far beyond the model's context of " +
                   std::to_string(context) + " tokens; shorten it");
  }
}

PromptRow read_row(const Json& row, const Tokenizer& tokenizer, const PromptOptions& options, int context) {
  PromptRow read;
  read.id = id_field(row);
  read.max_tokens = count_field(row, "max_tokens");
  auto own = options;
  own.system = text_field(row, "system").value_or(options.system);
  const auto prompt = text_field(row, "prompt");
  const bool has_messages = row.contains("messages") && !row.at("messages").is_null();
  if (prompt && has_messages) {
    throw RowError("it has both 'prompt' and 'messages'; give one");
  }
  if (prompt) {
    check_size(prompt->size(), context);
    read.text = *prompt;
    read.tokens = encode_prompt(tokenizer, *prompt, own);
  } else if (has_messages) {
    const auto messages = messages_field(row, own.system);
    const auto& last = messages.back();
    read.text = last.contains("content") && last.at("content").is_string() ? last.at("content") : Json("");
    check_size(read.text.size(), context);
    RenderOptions render;
    render.variables = options.variables;
    render.tools = row.value("tools", Json(nullptr));
    read.tokens = encode_messages(tokenizer, messages, render);
  } else {
    throw RowError("no field 'prompt' or 'messages' (" + describe_keys(row) + ")");
  }
  return read;
}

} // namespace

int context_length(const DecoderSpec& spec, const Json& config) {
  const bool stretches = std::any_of(spec.ropes.begin(), spec.ropes.end(),
                                     [](const RopeSpec& rope) { return rope.type == RopeType::dynamic; });
  const auto text = config.find("text_config");
  const auto& own = text != config.end() && text->is_object() ? *text : config;
  const auto found = own.find("max_position_embeddings");
  return !stretches && found != own.end() && found->is_number_integer() ? found->get<int>() : 0;
}

std::vector<PromptRow> read_prompt_file(const std::filesystem::path& path, const Tokenizer& tokenizer,
                                        const PromptOptions& options, int context) {
  const auto source = open_rows(path, "prompt");
  std::vector<PromptRow> rows;
  RawRow raw;
  while (source->next(raw)) {
    const auto fail = [&](const std::string& what) {
      throw DataError(path.string() + ":" + std::to_string(raw.line) + ": " + what);
    };
    try {
      rows.push_back(read_row(source->parse(raw), tokenizer, options, context));
    } catch (const RowError& error) {
      fail(error.what());
    } catch (const Error& error) { // of the prompt or the template, which don't know the line
      fail(error.what());
    }
    rows.back().line = raw.line;
    const auto length = rows.back().tokens.size();
    if (length == 0) {
      fail("the prompt has no tokens");
    }
    if (context > 0 && length > static_cast<std::size_t>(context)) {
      fail("the prompt has " + std::to_string(length) + " tokens, more than the model's context of " +
           std::to_string(context) + "; shorten it");
    }
  }
  if (rows.empty()) {
    throw DataError(path.string() + ": no prompts in it");
  }
  return rows;
}

} // namespace temper
