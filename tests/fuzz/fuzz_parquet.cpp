// Any bytes as a Parquet file, through the Rust library's C interface; the fuzzer sees no further than that.
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "fuzz/target.h"
#include "temper/base/error.h"
#include "temper/data/parquet_rows.h"

using namespace temper;

namespace {

// A file for the bytes, which goes with the process.
struct Scratch {
  std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("temper-fuzz-" + std::to_string(::getpid()) + ".parquet");
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove(path, ignored);
  }
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Scratch kScratch;
  std::ofstream(kScratch.path, std::ios::binary)
      .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  try {
    const auto rows = open_parquet_rows(kScratch.path);
    RawRow row;
    for (int left = 1000; left > 0 && rows->next(row); --left) { // a small file may hold many rows
      rows->parse(row);
    }
  } catch (const Error&) {
    // refused, as it may be
  }
  return 0;
}
