#include "temper/eval/modelfile.h"

#include <algorithm>
#include <optional>

#include "temper/base/error.h"
#include "temper/base/json.h"

namespace temper {
namespace {

// What stands around the messages of a conversation.
struct Frame {
  std::string preamble; // where no system message leads
  bool has_system = false;
  bool system_in_user = false; // the first user's turn holds it
  std::string system_before, system_after;
  std::string user_before, user_after; // what follows a user's turn opens the answer
  std::string answer_before;           // of an answer that is there already
  std::string answer_after;
};

struct Message {
  const char* role;
  std::string text;
};

std::optional<std::string> render(const Tokenizer& tokenizer, const std::vector<Message>& messages) {
  Json list = Json::array();
  for (const auto& message : messages) {
    list.push_back({{"role", message.role}, {"content", message.text}});
  }
  RenderOptions options;
  options.add_generation_prompt = true;
  try {
    auto text = tokenizer.chat_template()->render(list, options);
    // Ollama's tokenizer adds BOS itself, where the model's does.
    const auto empty = tokenizer.encode("", true);
    const auto bos = empty.empty() ? "" : tokenizer.id_to_token(empty.front());
    return text.starts_with(bos) ? text.substr(bos.size()) : text;
  } catch (const DataError&) {
    return std::nullopt;
  }
}

// The pieces between `texts`, one more than those; none: a text is missing.
std::optional<std::vector<std::string>> between(const std::string& rendered,
                                                const std::vector<std::string>& texts) {
  std::vector<std::string> pieces;
  std::size_t begin = 0;
  for (const auto& text : texts) {
    const auto at = rendered.find(text, begin);
    if (at == std::string::npos) {
      return std::nullopt;
    }
    pieces.push_back(rendered.substr(begin, at - begin));
    begin = at + text.size();
  }
  pieces.push_back(rendered.substr(begin));
  return pieces;
}

// Cuts what stands between an answer and the next question after the token that ends the turn, and after the
// line's end or BOS where a first question has none before it.
bool cut_turns(const Tokenizer& tokenizer, const std::string& middle, const std::string& lead, Frame& frame) {
  for (const auto id : tokenizer.stop_ids()) {
    const auto stop = tokenizer.id_to_token(id);
    const auto at = stop.empty() ? std::string::npos : middle.find(stop);
    if (at == std::string::npos) {
      continue;
    }
    const auto bos = tokenizer.bos_id() ? tokenizer.id_to_token(*tokenizer.bos_id()) : "";
    auto cut = at + stop.size();
    for (std::size_t step = 1; step > 0; cut += step) {
      const auto user_before = middle.substr(cut);
      if (lead.ends_with(user_before)) {
        frame.answer_after = middle.substr(0, cut);
        frame.user_before = user_before;
        frame.preamble = lead.substr(0, lead.size() - user_before.size());
        return true;
      }
      step = user_before.starts_with('\n') ? 1 : user_before.starts_with(bos) ? bos.size() : 0;
    }
  }
  return false;
}

void read_system(const Tokenizer& tokenizer, Frame& frame) {
  const auto text = render(tokenizer, {{"system", "SyA"}, {"user", "UsB"}});
  const auto pieces = text ? between(*text, {"SyA", "UsB"}) : std::nullopt;
  if (!pieces) {
    return;
  }
  frame.system_before = pieces->at(0);
  if (pieces->at(1).ends_with(frame.user_before) && !frame.user_before.empty()) {
    frame.has_system = true;
    frame.system_after = pieces->at(1).substr(0, pieces->at(1).size() - frame.user_before.size());
  } else if (frame.system_before.starts_with(frame.user_before)) {
    frame.has_system = true;
    frame.system_in_user = true;
    frame.system_after = pieces->at(1);
  }
}

std::string compose(const Frame& frame, const std::vector<Message>& messages) {
  std::string text;
  bool open = false;
  if (!frame.has_system || messages.front().role != std::string("system")) {
    text = frame.preamble;
  }
  for (const auto& [role, content] : messages) {
    if (role == std::string("system")) {
      text += frame.system_before + content + frame.system_after;
      open = frame.system_in_user;
    } else if (role == std::string("user")) {
      text += (open ? "" : frame.user_before) + content + frame.user_after;
      open = false;
    } else {
      text += frame.answer_before + content + frame.answer_after;
    }
  }
  return text;
}

// Whether the frame renders as the template does, on conversations that it was not read from. Mistral keeps a
// system message in the last turn, which Ollama's language cannot tell: one turn will do.
bool agrees(const Tokenizer& tokenizer, const Frame& frame) {
  const std::vector<Message> talk{{"user", "One?"},
                                  {"assistant", "First, 1."},
                                  {"user", "And {two}\nor"},
                                  {"assistant", "2!"},
                                  {"user", "'Three'"}};
  const std::vector<Message> one{{"user", "Hello there"}};
  auto led = talk;
  led.insert(led.begin(), {"system", "Be brief.\nAlways."});
  const auto same = [&](const std::vector<Message>& messages) {
    return render(tokenizer, messages) == compose(frame, messages);
  };
  const std::vector<Message> led_once{led.front(), one.front()};
  return same(talk) && same(one) &&
         (!frame.has_system || same(led) || (frame.system_in_user && same(led_once)));
}

std::optional<Frame> read_frame(const Tokenizer& tokenizer) {
  const auto text = render(tokenizer, {{"user", "UsA"}, {"assistant", "AnA"}, {"user", "UsB"}});
  const auto pieces = text ? between(*text, {"UsA", "AnA", "UsB"}) : std::nullopt;
  if (!pieces || !pieces->at(1).starts_with(pieces->at(3))) {
    return std::nullopt;
  }
  Frame frame;
  frame.user_after = pieces->at(3);
  frame.answer_before = pieces->at(1).substr(frame.user_after.size());
  if (!cut_turns(tokenizer, pieces->at(2), pieces->at(0), frame)) {
    return std::nullopt;
  }
  read_system(tokenizer, frame);
  const std::string all = frame.preamble + frame.system_before + frame.system_after + frame.user_before +
                          frame.user_after + frame.answer_before + frame.answer_after;
  const bool plain = all.find("{{") == std::string::npos && all.find("\"\"\"") == std::string::npos;
  return plain && agrees(tokenizer, frame) ? std::optional(frame) : std::nullopt;
}

} // namespace

std::filesystem::path modelfile_path(const std::filesystem::path& gguf) {
  return gguf.parent_path() / (gguf.stem().string() + ".Modelfile");
}

std::string ollama_template(const Tokenizer& tokenizer) {
  const auto frame = tokenizer.chat_template() == nullptr ? std::nullopt : read_frame(tokenizer);
  if (!frame) {
    return {};
  }
  const bool shared = frame->system_in_user;
  std::string out;
  if (!frame->preamble.empty()) {
    out += frame->has_system ? "{{ if not .System }}" + frame->preamble + "{{ end }}" : frame->preamble;
  }
  out += shared ? "{{ $open := false }}" : "";
  out += "{{ range .Messages }}";
  out += "{{ if eq .Role \"user\" }}";
  out +=
      shared ? "{{ if not $open }}" + frame->user_before + "{{ end }}{{ $open = false }}" : frame->user_before;
  out += "{{ .Content }}" + frame->user_after;
  if (frame->has_system) {
    out += "{{ else if eq .Role \"system\" }}" + frame->system_before + "{{ .Content }}" + frame->system_after +
           (shared ? "{{ $open = true }}" : "");
  }
  out += "{{ else if eq .Role \"assistant\" }}" + frame->answer_before + "{{ .Content }}" +
         frame->answer_after + "{{ end }}{{ end }}";
  return out;
}

std::string make_modelfile(const Tokenizer& tokenizer, const std::string& gguf_name,
                           std::vector<std::string>& notes) {
  std::string out = "FROM ./" + gguf_name + "\n";
  const auto text = ollama_template(tokenizer);
  if (!text.empty()) {
    out += "TEMPLATE \"\"\"" + text + "\"\"\"\n";
  } else {
    notes.push_back(
        tokenizer.chat_template() == nullptr
            ? "the model has no chat template: the Modelfile has no TEMPLATE"
            : "the chat template is no string of fixed turns: the Modelfile has no TEMPLATE, Ollama "
              "reads the file's own");
  }
  for (const auto id : tokenizer.stop_ids()) {
    const auto stop = tokenizer.id_to_token(id);
    if (!stop.empty() && stop.find('"') == std::string::npos) {
      out += "PARAMETER stop \"" + stop + "\"\n";
    }
  }
  return out;
}

} // namespace temper
