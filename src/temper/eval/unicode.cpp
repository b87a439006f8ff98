#include "temper/eval/unicode.h"

#include <algorithm>
#include <array>
#include <cstddef>

namespace temper {
namespace {

std::size_t sequence_length(char first) {
  const auto byte = static_cast<unsigned char>(first);
  if (byte >= 0xF0) {
    return 4;
  }
  if (byte >= 0xE0) {
    return 3;
  }
  return byte >= 0xC0 ? 2 : 1;
}

// Beyond ASCII: U+0085, U+00A0, U+1680, U+2000 to U+200A, U+2028, U+2029, U+202F, U+205F, U+3000.
constexpr std::array<std::string_view, 19> kSpaces = {
    "\xC2\x85",     "\xC2\xA0",     "\xE1\x9A\x80", "\xE2\x80\x80", "\xE2\x80\x81",
    "\xE2\x80\x82", "\xE2\x80\x83", "\xE2\x80\x84", "\xE2\x80\x85", "\xE2\x80\x86",
    "\xE2\x80\x87", "\xE2\x80\x88", "\xE2\x80\x89", "\xE2\x80\x8A", "\xE2\x80\xA8",
    "\xE2\x80\xA9", "\xE2\x80\xAF", "\xE2\x81\x9F", "\xE3\x80\x80",
};

} // namespace

std::vector<std::string_view> code_points(std::string_view text) {
  std::vector<std::string_view> points;
  points.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    const auto length = std::min(sequence_length(text[i]), text.size() - i);
    points.push_back(text.substr(i, length));
    i += length;
  }
  return points;
}

bool is_space(std::string_view code_point) {
  if (code_point.size() == 1) {
    const char c = code_point[0];
    return c == ' ' || (c >= '\t' && c <= '\r') || (c >= '\x1C' && c <= '\x1F');
  }
  return std::find(kSpaces.begin(), kSpaces.end(), code_point) != kSpaces.end();
}

std::vector<std::string_view> split_words(std::string_view text) {
  std::vector<std::string_view> words;
  const char* begin = nullptr;
  const char* end = nullptr;
  for (const auto point : code_points(text)) {
    if (is_space(point)) {
      if (begin != nullptr) {
        words.emplace_back(begin, static_cast<std::size_t>(end - begin));
        begin = nullptr;
      }
    } else {
      begin = begin != nullptr ? begin : point.data();
      end = point.data() + point.size();
    }
  }
  if (begin != nullptr) {
    words.emplace_back(begin, static_cast<std::size_t>(end - begin));
  }
  return words;
}

std::string_view trim_end(std::string_view text) {
  const auto points = code_points(text);
  std::size_t size = text.size();
  for (auto point = points.rbegin(); point != points.rend() && is_space(*point); ++point) {
    size -= point->size();
  }
  return text.substr(0, size);
}

std::string_view trim(std::string_view text) {
  std::size_t begin = 0;
  for (const auto point : code_points(text)) {
    if (!is_space(point)) {
      break;
    }
    begin += point.size();
  }
  return trim_end(text.substr(begin));
}

} // namespace temper
