#include "temper/eval/modelfile.h"

#include <doctest/doctest.h>

#include "text/fixtures.h"

using namespace temper;
using namespace temper::test;

namespace {

// A tokenizer whose chat template is the fixture's of that name.
std::shared_ptr<const Tokenizer> with_template(const TempFolder& folder, const std::string& name) {
  for (const auto& entry : read_json(fixture("templates.json"))) {
    if (entry["name"] == name) {
      Json config = entry["specials"];
      config["chat_template"] = entry["source"];
      config["additional_special_tokens"] = {"<|im_end|>", "<end_of_turn>", "<|end|>", "[INST]", "[/INST]"};
      folder.write("tokenizer_config.json", dump(config));
      return Tokenizer::load(folder.path());
    }
  }
  FAIL("no template " << name);
  return nullptr;
}

std::string template_of(const std::string& name) {
  const TempFolder folder("bytelevel");
  return ollama_template(*with_template(folder, name));
}

bool holds(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

} // namespace

TEST_CASE("templates of strung turns are written in Ollama's language") {
  const auto chatml = template_of("chatml");
  CHECK(holds(chatml, "<|im_start|>user\n{{ .Content }}<|im_end|>\n<|im_start|>assistant\n"));
  CHECK(holds(chatml, "<|im_start|>system\n{{ .Content }}<|im_end|>\n"));
  CHECK(holds(chatml, "{{ else if eq .Role \"assistant\" }}{{ .Content }}<|im_end|>\n{{ end }}"));
  const auto llama3 = template_of("llama3");
  CHECK(holds(llama3, "<|start_header_id|>user<|end_header_id|>\n\n{{ .Content }}<|eot_id|>"));
  CHECK_FALSE(holds(llama3, "<|begin_of_text|>")); // Ollama adds it
  const auto gemma = template_of("gemma");
  CHECK(holds(gemma, "<start_of_turn>user\n"));
  CHECK(holds(gemma, "{{ .Content }}<end_of_turn>\n<start_of_turn>model\n"));
  const auto phi3 = template_of("phi3");
  CHECK(holds(phi3, "<|user|>\n{{ .Content }}<|end|>\n<|assistant|>\n"));
  const auto mistral = template_of("mistral");
  CHECK(holds(mistral, "{{ .Content }}[/INST]{{ else"));
  CHECK(holds(mistral, "{{ else if eq .Role \"assistant\" }} {{ .Content }}</s>{{ end }}"));
  const auto llama2 = template_of("llama2");
  CHECK(holds(llama2, "[INST] <<SYS>>\n{{ .Content }}\n<</SYS>>\n\n{{ $open = true }}"));
  CHECK(holds(llama2, "{{ else if eq .Role \"assistant\" }} {{ .Content }} </s>{{ end }}"));
  const auto smollm = template_of("smollm");
  CHECK(
      holds(smollm, "{{ if not .System }}<|im_start|>system\nYou are a helpful assistant<|im_end|>{{ end }}"));
}

TEST_CASE("a template that does more is left to Ollama, which the notes say") {
  for (const char* name : {"alpaca", "vicuna", "reasoner"}) {
    CAPTURE(std::string(name));
    const TempFolder folder("bytelevel");
    const auto tokenizer = with_template(folder, name);
    std::vector<std::string> notes;
    const auto file = make_modelfile(*tokenizer, "m.gguf", notes);
    if (ollama_template(*tokenizer).empty()) {
      CHECK_FALSE(holds(file, "TEMPLATE"));
      CHECK(notes.size() == 1);
    }
    CHECK(file.starts_with("FROM ./m.gguf\n"));
  }
}
