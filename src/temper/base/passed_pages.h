// Keeps a large file that is mapped and read from start to end from filling the process's memory.
#pragma once

#include <cstddef>
#include <string_view>

namespace temper {

class PassedPages {
 public:
  // `map`: of a MappedFile, or of a part of it.
  explicit PassedPages(std::string_view map) : map_(map) {
  }
  // The bytes before `offset` have been read. Now and then gives their memory back; whoever still looks at them
  // has them read from the file anew.
  void reached(std::size_t offset) {
    if (offset >= released_ + kStep) {
      release(offset);
    }
  }

 private:
  static constexpr std::size_t kStep = std::size_t{16} << 20;

  void release(std::size_t offset);

  std::string_view map_;
  std::size_t released_ = 0;
};

} // namespace temper
