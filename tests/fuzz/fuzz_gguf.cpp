// Any bytes as a GGUF file.
#include "fuzz/target.h"
#include "temper/base/error.h"
#include "temper/io/gguf.h"

using namespace temper;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    for (const auto& tensor : parse_gguf_header(bytes, "fuzz").tensors) {
      fuzz::require(tensor.begin <= size && tensor.bytes <= size - tensor.begin);
    }
  } catch (const ModelError& error) {
    fuzz::require(std::string_view(error.what()).find('\n') == std::string_view::npos);
  }
  return 0;
}
