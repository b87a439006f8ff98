// Small things done to text.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace temper {

// Letters of ASCII in lower case; other bytes as they are.
std::string lower(std::string_view text);

// Without space, tabs and line ends at both ends.
std::string_view trim_ascii(std::string_view text);

// Decimal digits and nothing else, up to the largest of the type.
std::optional<std::int64_t> whole_number(std::string_view text);

// Two lower-case hexadecimal digits a byte.
std::string to_hex(std::string_view bytes);

} // namespace temper
