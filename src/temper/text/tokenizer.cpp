#include "temper/text/tokenizer.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <map>
#include <thread>

#include "temper/base/error.h"
#include "temper/base/log.h"
#include "temper/text/bridge.h"
#include "temper/text/tokenizer_files.h"

namespace temper {
namespace {

// A template that does not parse is an error for whoever asks for it, not for the tokenizer.
struct NamedTemplate {
  std::unique_ptr<ChatTemplate> compiled;
  std::string error;
};

bridge::TokenizerPtr open(const TokenizerFiles& files) {
  TemperTokenizer* out = nullptr;
  TemperText error{};
  const auto& bytes = files.model_bytes;
  if (!files.is_sentencepiece) {
    bridge::check<ModelError>(temper_tokenizer_from_json(bytes.data(), bytes.size(), &out, &error), error,
                              files.model.string() + ": not a tokenizer that can be read: ");
    return bridge::TokenizerPtr(out);
  }
  int prefix_space = -1;
  if (files.add_prefix_space == false) {
    prefix_space = 0;
  } else if (files.add_prefix_space == true || files.legacy) {
    prefix_space = files.legacy ? 2 : 1;
  }
  bridge::check<ModelError>(
      temper_tokenizer_from_sentencepiece(bytes.data(), bytes.size(), prefix_space, &out, &error), error,
      files.model.string() + ": not a SentencePiece model that can be read: ");
  return bridge::TokenizerPtr(out);
}

} // namespace

struct Tokenizer::Impl {
  bridge::TokenizerPtr tokenizer;
  std::map<std::string, NamedTemplate> templates;
  std::optional<std::int32_t> bos, eos, pad;
  std::vector<std::int32_t> stops;
  std::string fingerprint;
  int vocab_size = 0;

  explicit Impl(TokenizerFiles files) : tokenizer(open(files)), fingerprint(files.fingerprint) {
    add_tokens(files);
    bos = special_id(files, "bos_token", files.bos_ids, {"<s>", "<bos>"});
    eos = special_id(files, "eos_token", files.eos_ids, {"</s>", "<eos>"});
    pad = special_id(files, "pad_token", files.pad_ids, {});
    set_bos_eos(files);
    for (auto& [name, source] : files.templates) {
      try {
        templates[name].compiled = std::make_unique<ChatTemplate>(std::move(source), files.specials, name);
      } catch (const ModelError& error) {
        templates[name].error = files.model.parent_path().string() + ": " + error.what();
      }
    }
    vocab_size = static_cast<int>(temper_tokenizer_vocab_size(tokenizer.get()));
    find_stops(files);
  }

  std::optional<std::int32_t> id_of(std::string_view token) const {
    const auto id = temper_tokenizer_token_to_id(tokenizer.get(), token.data(), token.size());
    return id < 0 ? std::nullopt : std::optional(static_cast<std::int32_t>(id));
  }

  std::string token_of(std::int32_t id) const {
    TemperText out{};
    TemperText error{};
    if (id < 0 ||
        temper_tokenizer_id_to_token(tokenizer.get(), static_cast<std::uint32_t>(id), &out, &error) != 0) {
      temper_text_free(error);
      return {};
    }
    return bridge::take(out);
  }

  int added_kind(std::int32_t id) const {
    return temper_tokenizer_added_kind(tokenizer.get(), static_cast<std::uint32_t>(id));
  }

  Encoding encode(std::string_view text, bool add_special_tokens) const {
    TemperEncoding raw{};
    TemperText error{};
    bridge::check<DataError>(temper_tokenizer_encode(tokenizer.get(), text.data(), text.size(),
                                                     add_special_tokens ? 1 : 0, &raw, &error),
                             error, "the text can't be tokenized: ");
    Encoding out;
    out.ids.reserve(raw.size);
    out.offsets.reserve(raw.size);
    for (std::size_t i = 0; i < raw.size; ++i) {
      out.ids.push_back(static_cast<std::int32_t>(raw.tokens[i].id));
      out.offsets.push_back({raw.tokens[i].begin, raw.tokens[i].end});
    }
    temper_encoding_free(raw);
    return out;
  }

  // Tokens that the configuration names and tokenizer.json lacks or does not mark as special.
  void add_tokens(const TokenizerFiles& files) {
    Json wanted = Json::array();
    const auto want = [&](const Json& token) {
      const auto id = id_of(token["content"].get<std::string>());
      if (!id || added_kind(*id) == 0) {
        wanted.push_back(token);
      }
    };
    for (const Json& token : files.added_tokens) {
      want(token);
    }
    for (const auto& [name, value] : files.specials.items()) {
      const Json list = value.is_array() ? value : Json::array({value});
      for (const Json& text : list) {
        want({{"content", text}, {"special", true}, {"normalized", false}});
      }
    }
    const auto json = dump(wanted);
    TemperText error{};
    bridge::check<ModelError>(temper_tokenizer_add_tokens(tokenizer.get(), json.data(), json.size(), &error),
                              error, files.model.string() + ": its added tokens can't be used: ");
    for (const Json& token : files.added_tokens) {
      const auto content = token["content"].get<std::string>();
      if (const auto id = id_of(content); id && *id != token["id"].get<std::int32_t>()) {
        log::warn("tokenizer_config.json gives " + content + " the id " + dump(token["id"]) +
                  ", the tokenizer " + std::to_string(*id) + "; the tokenizer's is used");
      }
    }
  }

  // By name in the configuration, else by id, else (SentencePiece) by what it is usually called. A name found
  // by id is told to the templates too.
  std::optional<std::int32_t> special_id(TokenizerFiles& files, const char* name,
                                         const std::vector<std::int32_t>& ids,
                                         const std::vector<const char*>& usual) const {
    if (files.specials.contains(name)) {
      return id_of(files.specials[name].get<std::string>());
    }
    std::optional<std::int32_t> id;
    if (!ids.empty() && !token_of(ids.front()).empty()) {
      id = ids.front();
    } else if (files.is_sentencepiece) {
      for (const char* token : usual) {
        id = id ? id : id_of(token);
      }
    }
    if (id) {
      files.specials[name] = token_of(*id);
    }
    return id;
  }

  // add_bos_token and add_eos_token, where they are set and the post-processor does otherwise.
  void set_bos_eos(const TokenizerFiles& files) {
    const auto empty = encode("", true).ids;
    const bool has_bos = bos && !empty.empty() && empty.front() == *bos;
    const bool has_eos = eos && !empty.empty() && empty.back() == *eos;
    const bool with_bos = bos && files.add_bos_token.value_or(files.is_sentencepiece || has_bos);
    const bool with_eos = eos && files.add_eos_token.value_or(has_eos);
    if (with_bos == has_bos && with_eos == has_eos) {
      return;
    }
    const auto first = with_bos ? token_of(*bos) : std::string();
    const auto last = with_eos ? token_of(*eos) : std::string();
    TemperText error{};
    bridge::check<ModelError>(temper_tokenizer_set_bos_eos(tokenizer.get(), first.data(), first.size(),
                                                           last.data(), last.size(), &error),
                              error, files.model.string() + ": BOS and EOS can't be added: ");
  }

  void find_stops(const TokenizerFiles& files) {
    stops = files.eos_ids;
    if (eos) {
      stops.push_back(*eos);
    }
    if (const auto id = turn_end()) {
      stops.push_back(*id);
    }
    std::sort(stops.begin(), stops.end());
    stops.erase(std::unique(stops.begin(), stops.end()), stops.end());
  }

  // The special token by which the chat template closes an assistant turn, if it does by one.
  std::optional<std::int32_t> turn_end() const {
    const auto found = templates.find("default");
    if (found == templates.end() || !found->second.compiled) {
      return std::nullopt;
    }
    const std::string answer = "xyz";
    Json messages = Json::array();
    for (const char* role : {"user", "assistant", "user"}) {
      messages.push_back({{"role", role}, {"content", answer}});
    }
    try {
      const auto chat = found->second.compiled->render_with_spans(messages);
      const TextSpan span = chat.assistant_spans.empty() ? TextSpan{} : chat.assistant_spans.front();
      const auto turn = chat.text.substr(span.begin, span.end - span.begin);
      const auto place = turn.rfind(answer);
      if (place != std::string::npos) {
        for (const auto id : encode(turn.substr(place + answer.size()), false).ids) {
          if (added_kind(id) != 0) {
            return id;
          }
        }
      }
    } catch (const DataError&) {
      // A template that refuses this chat says nothing about turns.
    }
    return std::nullopt;
  }
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {
}

Tokenizer::~Tokenizer() = default;

std::shared_ptr<const Tokenizer> Tokenizer::load(const std::filesystem::path& model_dir) {
  return std::shared_ptr<const Tokenizer>(
      new Tokenizer(std::make_unique<Impl>(read_tokenizer_files(model_dir))));
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  return impl_->encode(text, add_special_tokens).ids;
}

Encoding Tokenizer::encode_with_offsets(std::string_view text, bool add_special_tokens) const {
  return impl_->encode(text, add_special_tokens);
}

std::vector<Encoding> Tokenizer::encode_batch(std::span<const std::string> texts, bool add_special_tokens,
                                              int num_threads) const {
  std::vector<Encoding> out(texts.size());
  std::vector<std::exception_ptr> errors(texts.size());
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    for (std::size_t i = next++; i < texts.size(); i = next++) {
      try {
        out[i] = impl_->encode(texts[i], add_special_tokens);
      } catch (...) {
        errors[i] = std::current_exception();
      }
    }
  };
  const auto available =
      num_threads > 0 ? static_cast<unsigned>(num_threads) : std::thread::hardware_concurrency();
  const auto helpers = std::min<std::size_t>(std::max(1u, available), texts.size());
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 1; i < helpers; ++i) {
      threads.emplace_back(work);
    }
    work();
  }
  for (const auto& error : errors) {
    if (error) {
      std::rethrow_exception(error);
    }
  }
  return out;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids, bool skip_special_tokens) const {
  // Padding and ignored targets are negative; no token is.
  std::vector<std::uint32_t> valid;
  valid.reserve(ids.size());
  for (const auto id : ids) {
    if (id >= 0) {
      valid.push_back(static_cast<std::uint32_t>(id));
    }
  }
  TemperText out{};
  TemperText error{};
  bridge::check<DataError>(temper_tokenizer_decode(impl_->tokenizer.get(), valid.data(), valid.size(),
                                                   skip_special_tokens ? 1 : 0, &out, &error),
                           error, "the ids can't be decoded: ");
  return bridge::take(out);
}

std::optional<std::int32_t> Tokenizer::token_to_id(std::string_view token) const {
  return impl_->id_of(token);
}

std::string Tokenizer::id_to_token(std::int32_t id) const {
  return impl_->token_of(id);
}

int Tokenizer::vocab_size() const {
  return impl_->vocab_size;
}

std::optional<std::int32_t> Tokenizer::bos_id() const {
  return impl_->bos;
}

std::optional<std::int32_t> Tokenizer::eos_id() const {
  return impl_->eos;
}

std::optional<std::int32_t> Tokenizer::pad_id() const {
  return impl_->pad;
}

const std::vector<std::int32_t>& Tokenizer::stop_ids() const {
  return impl_->stops;
}

const ChatTemplate* Tokenizer::chat_template(const std::string& name) const {
  const auto found = impl_->templates.find(name);
  if (found == impl_->templates.end()) {
    return nullptr;
  }
  if (!found->second.compiled) {
    throw ModelError(found->second.error);
  }
  return found->second.compiled.get();
}

std::vector<std::string> Tokenizer::chat_template_names() const {
  std::vector<std::string> names;
  for (const auto& [name, ignored] : impl_->templates) {
    names.push_back(name);
  }
  return names;
}

std::string Tokenizer::to_json() const {
  TemperText out{};
  TemperText error{};
  bridge::check<ModelError>(temper_tokenizer_to_json(impl_->tokenizer.get(), &out, &error), error,
                            "the tokenizer can't be written as JSON: ");
  return bridge::take(out);
}

const std::string& Tokenizer::fingerprint() const {
  return impl_->fingerprint;
}

} // namespace temper
