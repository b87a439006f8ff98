// Where the assistant speaks in a rendered chat, found by rendering: for templates without {% generation %}.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "temper/text/chat_template.h"

namespace temper {

// Renders `messages` with or without the generation prompt, everything else as for the whole chat.
// Throws DataError when the template refuses them.
using RenderMessages = std::function<std::string(const Json& messages, bool add_generation_prompt)>;

// A span for each assistant message of `messages`, in order, as RenderedChat describes them. `text` is their
// rendering. A turn begins where the generation prompt after the messages before it ends, and ends where its
// own rendering does. Where the template writes earlier turns differently once later ones follow (dropped
// thoughts, a system prompt moved to the last question, a final EOS), the place is found by a marker put
// into the message.
// Throws DataError, naming the turn and what to do, when a turn's place can't be told.
std::vector<TextSpan> find_assistant_spans(const Json& messages, const std::string& text,
                                           bool add_generation_prompt, const RenderMessages& render);

} // namespace temper
