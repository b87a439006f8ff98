// Any text as a chat template, through the Rust library's C interface; the fuzzer sees no further than that.
#include <string_view>

#include "fuzz/target.h"
#include "temper/base/error.h"
#include "temper/text/chat_template.h"

using namespace temper;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Json kMessages = {{{"role", "system"}, {"content", "Be brief."}},
                                 {{"role", "user"}, {"content", "1 + 1?"}},
                                 {{"role", "assistant"}, {"content", "2"}}};
  static const Json kSpecials = {{"bos_token", "<s>"}, {"eos_token", "</s>"}};
  try {
    const ChatTemplate tmpl({reinterpret_cast<const char*>(data), size}, kSpecials);
    const auto rendered = tmpl.render_with_spans(kMessages, {.add_generation_prompt = true});
    for (const auto& span : rendered.assistant_spans) {
      fuzz::require(span.begin <= span.end && span.end <= rendered.text.size());
    }
  } catch (const Error& error) {
    // Refused, as it may be. What took all the memory that a template may have keeps it: not to be tried again.
    return std::string_view(error.what()).find("MiB of memory") == std::string_view::npos ? 0 : -1;
  }
  return 0;
}
