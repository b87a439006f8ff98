// Chat messages as chat templates expect them, from the dialects that data sets use.
#pragma once

#include <string>

#include "temper/base/json.h"

namespace temper {

// Each message becomes {role, content, ...the rest}: `from` and `value` are read as role and content, human
// and gpt as user and assistant; a list of text parts becomes one string; a tool call's arguments, if they
// are JSON in a string (OpenAI), become the object that templates expect.
// `key` names the list in messages. Throws RowError naming the message and what is wrong with it.
Json clean_messages(const Json& messages, const std::string& key);

} // namespace temper
