// Ends generation at a string, wherever the tokens' borders fall.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace temper {

// Passes a growing text through, keeping back whatever could yet become a stop string. The stop string and
// all that follows it never come out.
class StopStrings {
 public:
  // Throws ConfigError if one of them is empty.
  explicit StopStrings(std::vector<std::string> stops);

  // The part of the text so far that is safe to print now; nothing once stopped().
  std::string add(std::string_view text);
  // What was kept back, when no more text follows; nothing once stopped().
  std::string finish();
  // A stop string has appeared.
  bool stopped() const {
    return stopped_;
  }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

} // namespace temper
