// Owning C++ views of rust/temper_bridge.h. For the library's own sources only.
#pragma once

#include <memory>
#include <string>

#include "temper_bridge.h"

namespace temper::bridge {

// Takes the bytes over and frees them.
inline std::string take(TemperText text) {
  std::string out(text.data, text.size);
  temper_text_free(text);
  return out;
}

// Throws `E` with `context` and the bridge's words if `status` is not 0.
template <class E>
void check(int status, TemperText& error, const std::string& context) {
  if (status != 0) {
    throw E(context + take(error));
  }
}

struct Deleter {
  void operator()(TemperTokenizer* tokenizer) const noexcept {
    temper_tokenizer_free(tokenizer);
  }
  void operator()(TemperTemplate* tmpl) const noexcept {
    temper_template_free(tmpl);
  }
  void operator()(TemperParquet* parquet) const noexcept {
    temper_parquet_free(parquet);
  }
};

using TokenizerPtr = std::unique_ptr<TemperTokenizer, Deleter>;
using TemplatePtr = std::unique_ptr<TemperTemplate, Deleter>;
using ParquetPtr = std::unique_ptr<TemperParquet, Deleter>;

} // namespace temper::bridge
