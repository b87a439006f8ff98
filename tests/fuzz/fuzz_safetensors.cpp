// Any bytes as a safetensors file.
#include "fuzz/target.h"
#include "temper/base/error.h"
#include "temper/io/safetensors.h"

using namespace temper;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    for (const auto& [name, tensor] : parse_safetensors_header(bytes, "fuzz").tensors) {
      fuzz::require(tensor.begin <= tensor.end && tensor.end <= size);
    }
  } catch (const ModelError& error) {
    fuzz::require(std::string_view(error.what()).find('\n') == std::string_view::npos);
  }
  return 0;
}
