#include "temper/data/data_preview.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "temper/data/row_source.h"
#include "temper/data/tokenize.h"

namespace temper {
namespace {

// A token's part of the text. Tokens that are pieces of one character share its bytes: the first shows them.
// One that was added has none and shows its name.
std::string text_of(const EncodedRow& row, std::size_t token, std::size_t& shown, const Tokenizer& tokenizer) {
  const auto& span = row.offsets[token];
  const auto id = row.example.tokens[token];
  if (span.begin == span.end && (id == tokenizer.bos_id() || id == tokenizer.eos_id())) {
    return tokenizer.id_to_token(id);
  }
  if (span.end <= shown) {
    return "";
  }
  return row.text.substr(std::exchange(shown, span.end), span.end - shown);
}

PreviewRow to_preview(const EncodedRow& row, const Tokenizer& tokenizer) {
  PreviewRow preview;
  preview.tokens = row.example.tokens;
  preview.num_supervised = row.num_supervised;
  preview.num_cut = row.full_length - static_cast<std::int64_t>(preview.tokens.size());
  std::size_t shown = 0;
  for (std::size_t i = 0; i < row.example.tokens.size(); ++i) {
    const bool supervised = i > 0 && row.example.supervised[i] != 0;
    const auto text = text_of(row, i, shown, tokenizer);
    if (text.empty()) {
      continue;
    }
    if (preview.segments.empty() || preview.segments.back().supervised != supervised) {
      preview.segments.push_back({"", supervised});
    }
    preview.segments.back().text += text;
  }
  return preview;
}

} // namespace

Json PreviewRow::to_json() const {
  Json parts = Json::array();
  std::string text;
  for (const auto& segment : segments) {
    parts.push_back({{"text", segment.text}, {"supervised", segment.supervised}});
    text += segment.text;
  }
  Json json{{"line", line},
            {"text", std::move(text)},
            {"tokens", tokens.size()},
            {"supervised_tokens", num_supervised},
            {"cut_tokens", num_cut},
            {"token_ids", tokens},
            {"segments", std::move(parts)}};
  if (!problem.empty()) {
    json["problem"] = problem;
  }
  return json;
}

std::string PreviewRow::to_text(const std::string& open, const std::string& close) const {
  std::string text;
  for (const auto& segment : segments) {
    text += segment.supervised ? open + segment.text + close : segment.text;
  }
  return text;
}

std::vector<PreviewRow> preview_rows(const std::vector<std::filesystem::path>& files,
                                     const std::shared_ptr<const Tokenizer>& tokenizer,
                                     const DataOptions& options, int count, int skip) {
  const auto source = open_rows(files, options.format.text_feature);
  const RowEncoder encoder(tokenizer, options.encode);
  std::vector<PreviewRow> previews;
  std::optional<std::size_t> file;
  RowFormat format = RowFormat::text;
  RawRow raw;
  for (int row = 0; static_cast<int>(previews.size()) < count && source->next(raw); ++row) {
    if (row < skip) {
      continue;
    }
    if (file != raw.file) {
      file = raw.file;
      format = choose_format(files[raw.file], options.format);
    }
    PreviewRow preview;
    try {
      preview =
          to_preview(encoder.encode(read_record_as(source->parse(raw), format, options.format)), *tokenizer);
    } catch (const RowError& error) {
      preview.problem = error.what();
    }
    preview.file = files[raw.file].string();
    preview.line = raw.line;
    previews.push_back(std::move(preview));
  }
  return previews;
}

} // namespace temper
