// Rows as the model will see them: the rendered text, and which of it is learned.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "temper/base/json.h"
#include "temper/data/data_options.h"
#include "temper/text/tokenizer.h"

namespace temper {

struct PreviewSegment {
  std::string text;
  bool supervised = false;
};

struct PreviewRow {
  std::string file;
  std::int64_t line = 0;
  std::vector<PreviewSegment> segments; // in order, supervised or not in turn
  std::vector<std::int32_t> tokens;     // after the cut
  std::int64_t num_supervised = 0;
  std::int64_t num_cut = 0; // tokens beyond max_seq_length
  std::string problem;      // why the row can't be used; empty if it can

  Json to_json() const;
  // Supervised segments between `open` and `close`, e.g. terminal colours or « and ».
  std::string to_text(const std::string& open, const std::string& close) const;
};

// `count` rows of the files after the first `skip`. Throws as tokenize_file does for a file as a whole.
std::vector<PreviewRow> preview_rows(const std::vector<std::filesystem::path>& files,
                                     const std::shared_ptr<const Tokenizer>& tokenizer,
                                     const DataOptions& options, int count, int skip = 0);

} // namespace temper
