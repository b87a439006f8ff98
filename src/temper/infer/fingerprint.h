// What a model and an adapter on disk are, in a few digits: for files that are of use with them alone.
#pragma once

#include <filesystem>
#include <string>

namespace temper {

// Changes with config.json, the tokenizer's files, and each weight file's size, header and a sample of its
// data (all of a file below a megabyte). 16 hexadecimal digits; "" for an empty path. `path`: a folder, or a
// file in place of the folder's weights. Throws IoError.
std::string weights_fingerprint(const std::filesystem::path& path);

} // namespace temper
