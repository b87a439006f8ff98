#include "temper/base/passed_pages.h"

#include <cstdint>

#include <sys/mman.h>
#include <unistd.h>

namespace temper {

void PassedPages::release(std::size_t offset) {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto start = reinterpret_cast<std::uintptr_t>(map_.data());
  const auto from = (start + released_ + page - 1) / page * page - start;
  const auto to = (start + offset) / page * page - start;
  if (to > from && to <= map_.size()) {
    auto* pages = const_cast<char*>(map_.data() + from);
    ::madvise(pages, to - from, MADV_DONTNEED); // at worst the memory stays in use
  }
  released_ = offset;
}

} // namespace temper
