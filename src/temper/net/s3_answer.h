// What S3's XML says.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "temper/net/s3.h"

namespace temper {

// The text of the first element of this name, entities resolved; empty if there is none.
std::string xml_text(std::string_view xml, std::string_view name);

// One page of ListObjectsV2.
struct S3Page {
  std::vector<S3Object> objects;
  std::string next; // token of the next page; empty: this was the last
};

// Throws IoError if it is no such page.
S3Page parse_page(const std::string& xml, const std::string& url);

} // namespace temper
