// CSV and TSV. Source: RFC 4180.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>

#include "temper/base/files.h"
#include "temper/data/row_source.h"

namespace temper {

// Rows of `file` from byte `skip` on, as objects of strings keyed by the first record's names.
// Throws DataError if a name is empty or comes twice, or if no record follows.
std::unique_ptr<RowSource> open_delimited_rows(MappedFile file, std::size_t skip, char delimiter,
                                               const std::filesystem::path& path);

} // namespace temper
