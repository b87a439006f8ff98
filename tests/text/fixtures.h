// Shared by the tests of text/: the committed fixtures and throw-away model folders.
#pragma once

#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <string>

#include "base/messages.h"
#include "temper/base/files.h"
#include "temper/base/json.h"
#include "temper/text/tokenizer.h"

namespace temper::test {

inline std::filesystem::path fixture(const std::string& name) {
  return std::filesystem::path(TEMPER_TEST_DATA) / "text" / name;
}

// A folder that goes away with the object.
class TempFolder {
 public:
  TempFolder() {
    static std::atomic<int> count{0};
    path_ = std::filesystem::temp_directory_path() /
            ("temper_text_" + std::to_string(getpid()) + "_" + std::to_string(count++));
    std::filesystem::create_directories(path_);
  }
  // A copy of a fixture's folder.
  explicit TempFolder(const std::string& name) : TempFolder() {
    std::filesystem::copy(fixture(name), path_, std::filesystem::copy_options::recursive);
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::filesystem::path& path() const {
    return path_;
  }
  void write(const std::string& name, const std::string& text) const {
    std::filesystem::create_directories((path_ / name).parent_path());
    write_file_atomic(path_ / name, text);
  }
  void remove(const std::string& name) const {
    std::filesystem::remove(path_ / name);
  }

 private:
  std::filesystem::path path_;
};

inline std::vector<TextSpan> to_spans(const Json& pairs) {
  std::vector<TextSpan> spans;
  for (const Json& pair : pairs) {
    spans.push_back({pair[0].get<std::size_t>(), pair[1].get<std::size_t>()});
  }
  return spans;
}

inline RenderOptions options_of(const Json& chat) {
  RenderOptions options;
  options.add_generation_prompt = chat.value("add_generation_prompt", false);
  options.tools = chat.value("tools", Json());
  options.variables = chat.value("variables", Json::object());
  return options;
}

} // namespace temper::test
