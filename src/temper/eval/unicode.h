// The little of Unicode that text metrics need: code points, and white space as Python's str.split sees it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace temper {

// The text's code points, each as its UTF-8 bytes; a byte that is not UTF-8 stands alone.
std::vector<std::string_view> code_points(std::string_view text);

// Whether one code point, as code_points() gives it, is white space.
bool is_space(std::string_view code_point);

// The words between white space.
std::vector<std::string_view> split_words(std::string_view text);

// Without white space at both ends.
std::string_view trim(std::string_view text);
std::string_view trim_end(std::string_view text);

} // namespace temper
