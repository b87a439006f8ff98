#include "temper/net/s3_answer.h"

#include <cstdlib>

#include "temper/base/error.h"

namespace temper {
namespace {

constexpr auto kNone = std::string_view::npos;

// What is between <name> and </name>, from `at` on; moves `at` behind it. False if there is none.
bool take_element(std::string_view xml, std::string_view name, std::size_t& at, std::string_view& content) {
  const auto open = "<" + std::string(name) + ">";
  const auto close = "</" + std::string(name) + ">";
  const auto begin = xml.find(open, at);
  const auto end = begin == kNone ? kNone : xml.find(close, begin);
  if (end == kNone) {
    return false;
  }
  content = xml.substr(begin + open.size(), end - begin - open.size());
  at = end + close.size();
  return true;
}

void append_utf8(std::string& text, unsigned long code) {
  if (code < 0x80) {
    text += static_cast<char>(code);
    return;
  }
  const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  text += static_cast<char>((0xf00 >> more & 0xff) | code >> (6 * more));
  for (int i = more - 1; i >= 0; --i) {
    text += static_cast<char>(0x80 | (code >> (6 * i) & 0x3f));
  }
}

std::string unescape(std::string_view text) {
  std::string result;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const auto end = text[at] == '&' ? text.find(';', at) : kNone;
    if (end == kNone) {
      result += text[at];
      continue;
    }
    const auto name = std::string(text.substr(at + 1, end - at - 1));
    if (name.starts_with('#')) {
      const bool hex = name.size() > 1 && name[1] == 'x';
      append_utf8(result, std::strtoul(name.c_str() + (hex ? 2 : 1), nullptr, hex ? 16 : 10) & 0x1fffff);
    } else {
      result += name == "amp" ? "&" : name == "lt" ? "<" : name == "gt" ? ">" : name == "quot" ? "\"" : "'";
    }
    at = end;
  }
  return result;
}

// As listings write keys under encoding-type=url: a space is a plus.
std::string decode_url(const std::string& text) {
  std::string result;
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (text[at] == '%' && at + 2 < text.size()) {
      result += static_cast<char>(std::strtoul(text.substr(at + 1, 2).c_str(), nullptr, 16));
      at += 2;
    } else {
      result += text[at] == '+' ? ' ' : text[at];
    }
  }
  return result;
}

} // namespace

std::string xml_text(std::string_view xml, std::string_view name) {
  std::size_t at = 0;
  std::string_view content;
  return take_element(xml, name, at, content) ? unescape(content) : std::string();
}

S3Page parse_page(const std::string& xml, const std::string& url) {
  if (xml.find("<ListBucketResult") == std::string::npos) {
    throw IoError(url + ": the answer is not S3's; check AWS_ENDPOINT_URL and proxies");
  }
  const bool encoded = xml_text(xml, "EncodingType") == "url";
  S3Page page;
  std::size_t at = 0;
  std::string_view entry;
  while (take_element(xml, "Contents", at, entry)) {
    const auto key = xml_text(entry, "Key");
    page.objects.push_back({encoded ? decode_url(key) : key, xml_text(entry, "ETag"),
                            std::strtoll(xml_text(entry, "Size").c_str(), nullptr, 10)});
  }
  if (xml_text(xml, "IsTruncated") == "true") {
    page.next = xml_text(xml, "NextContinuationToken");
  }
  return page;
}

} // namespace temper
