// Base64 with padding. Source: RFC 4648, section 4.
#pragma once

#include <string>
#include <string_view>

namespace temper {

std::string encode_base64(std::string_view bytes);

// The bytes; reads up to the first character that is no digit of base64, the padding for one.
std::string decode_base64(std::string_view text);

} // namespace temper
