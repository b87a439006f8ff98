// A model folder's tokenizer: tokenizer.json (Hugging Face) or tokenizer.model (SentencePiece), with what
// tokenizer_config.json, special_tokens_map.json, chat_template.jinja and generation_config.json add.
// Ids are int32; offsets are byte offsets into the UTF-8 text. Thread-safe once loaded.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "temper/text/chat_template.h"

namespace temper {

struct Encoding {
  std::vector<std::int32_t> ids;
  std::vector<TextSpan> offsets; // of each id; empty spans for tokens that the tokenizer added
};

class Tokenizer {
 public:
  // Throws ModelError if the folder has no tokenizer or it can't be read.
  static std::shared_ptr<const Tokenizer> load(const std::filesystem::path& model_dir);
  ~Tokenizer();

  // With `add_special_tokens` the tokenizer's own BOS/EOS are added, as its post-processor says.
  // Special tokens written out in `text` (a rendered chat template) are recognized either way.
  std::vector<std::int32_t> encode(std::string_view text, bool add_special_tokens) const;
  Encoding encode_with_offsets(std::string_view text, bool add_special_tokens) const;
  // encode_with_offsets for each text, on up to `num_threads` threads (0: one a core).
  std::vector<Encoding> encode_batch(std::span<const std::string> texts, bool add_special_tokens,
                                     int num_threads = 0) const;
  // Ids that no token has (negative ones too) are left out.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special_tokens = true) const;

  std::optional<std::int32_t> token_to_id(std::string_view token) const;
  std::string id_to_token(std::int32_t id) const; // "" beyond the vocabulary
  int vocab_size() const;                         // added tokens included; the largest id + 1

  std::optional<std::int32_t> bos_id() const;
  std::optional<std::int32_t> eos_id() const;
  std::optional<std::int32_t> pad_id() const;
  // Where generation ends: eos, generation_config.json's eos_token_id list, and the turn's end if the
  // chat template closes assistant turns with another token. Sorted, unique.
  const std::vector<std::int32_t>& stop_ids() const;

  // nullptr when the model has no such template. Named templates: "default", "tool_use", "rag" ...
  // Throws ModelError if the template does not parse.
  const ChatTemplate* chat_template(const std::string& name = "default") const;
  std::vector<std::string> chat_template_names() const;

  // All of it as Hugging Face's tokenizer.json, also of a SentencePiece model: with the tokens that the other
  // files add, and BOS and EOS as encode() adds them.
  std::string to_json() const;

  // Changes whenever any file that shapes token ids or templates changes.
  const std::string& fingerprint() const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Turns a growing list of ids into text that is safe to print: never half a UTF-8 character, no text that
// a later token could still change.
class StreamingDetokenizer {
 public:
  explicit StreamingDetokenizer(std::shared_ptr<const Tokenizer> tokenizer);
  // The text that `id` completes; often empty.
  std::string add(std::int32_t id);
  // What is left when no more ids follow.
  std::string finish();

 private:
  std::string pending() const; // what the ids from prefix_ on say beyond what was printed

  std::shared_ptr<const Tokenizer> tokenizer_;
  std::vector<std::int32_t> ids_;
  std::size_t prefix_ = 0;  // ids before this one are printed and only give context
  std::size_t printed_ = 0; // ids before this one are printed
};

} // namespace temper
