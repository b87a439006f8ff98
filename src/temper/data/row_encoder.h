// A row's tokens and which of them are targets.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "temper/data/example.h"
#include "temper/data/row_format.h"
#include "temper/text/tokenizer.h"

namespace temper {

// RunConfig's keys of the same names.
struct EncodeOptions {
  int max_seq_length = 2048;
  bool mask_prompt = true;
  bool last_turn_only = false; // supervise: last-turn
  bool compat_mlx_lm = false;  // mlx-lm's tokens and mask; nothing is cut or dropped here
};

struct EncodedRow {
  Example example;                 // cut at max_seq_length
  std::string text;                // as it was rendered
  std::vector<TextSpan> offsets;   // of each token in `text`, empty for one that was added
  std::int64_t full_length = 0;    // tokens before the cut
  std::int64_t num_supervised = 0; // targets: supervised tokens but the first, which nothing predicts
  bool truncated = false;
  bool lost_labels = false;   // had targets, and the cut took them all
  bool learns_to_stop = true; // one of the tokenizer's stop tokens is a target, or the cut took the end
};

// Turns records into tokens. Thread-safe.
// Chats go through the model's chat template; prompt and completion too if the model has one, else they are
// joined and end in EOS. Texts end in EOS. BOS: a template writes its own and gets no second one; text gets
// the tokenizer's unless it begins with it already.
class RowEncoder {
 public:
  RowEncoder(std::shared_ptr<const Tokenizer> tokenizer, EncodeOptions options);

  // Throws RowError if the template refuses the messages; DataError if chats meet a model without template.
  EncodedRow encode(const Record& record) const;

 private:
  EncodedRow encode_chat(const Json& messages, const Record& record) const;
  EncodedRow encode_plain(const std::string& prompt, const std::string& completion) const;
  EncodedRow encode_mlx_lm(const Record& record) const;
  void finish(EncodedRow& row) const;

  std::shared_ptr<const Tokenizer> tokenizer_;
  EncodeOptions options_;
};

} // namespace temper
