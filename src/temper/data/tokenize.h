// A data file's rows to examples, on all cores, in constant memory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>

#include "temper/data/data_options.h"
#include "temper/data/example.h"
#include "temper/data/split_report.h"
#include "temper/text/tokenizer.h"

namespace temper {

// Takes the next example, in the file's order. `num_fields`: of its row.
using ExampleSink = std::function<void(const Example& example, std::int64_t line, std::size_t num_fields)>;

// Reads, renders and tokenizes `path`. Rows that can't be used are listed in the report and left out.
// Stops early with DataError when there are more bad rows than skip_bad_rows allows, or no row fits a known
// format; without skip_bad_rows the report lists them (see check_bad_rows) and nothing more is tokenized.
SplitReport tokenize_file(const std::filesystem::path& path, std::shared_ptr<const Tokenizer> tokenizer,
                          const DataOptions& options, const ExampleSink& sink);

// Throws DataError "file:line: what (and N more ...)" if the report has bad rows that options don't allow.
void check_bad_rows(const SplitReport& report, const DataOptions& options);

// The format that options name, or else the one of the first row that has one. Throws DataError naming
// fields if no early row has.
RowFormat choose_format(const std::filesystem::path& path, const FormatOptions& options);

} // namespace temper
