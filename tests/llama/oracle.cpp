// What llama.cpp says of GGUF files. Usage: oracle REQUESTS.json > ANSWERS.json, an array each:
// {"model": FILE, "widened": FILE?, "lora": FILE?, "prompts": [[id ...]], "tokens": N, "texts": [...]}
// -> {"continuations": [[id ...]], "logits": [[[...] by token] by prompt], "ids": [[id ...]] by text with the
// tokenizer's
//     own BOS and EOS, "plain_ids" without them, "literal_ids" also without special tokens in text}
// or {"error": what}. With "widened" llama.cpp first writes the model there with F32 weights, and runs that: it
// rounds what it multiplies with F16 weights to F16 too. Everything is computed in float32 where llama.cpp can:
// caches too, no flash attention.
#include <algorithm>
#include <fstream>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <llama.h>
#include <nlohmann/json.hpp>

namespace {

using Json = nlohmann::json;
using Ids = std::vector<llama_token>;

std::string last_error; // of llama.cpp's log

void keep_errors(ggml_log_level level, const char* text, void*) {
  if (level == GGML_LOG_LEVEL_ERROR) {
    last_error += text;
  }
}

template <typename T>
std::unique_ptr<T, void (*)(T*)> owned(T* pointer, void (*release)(T*), const char* what) {
  if (pointer == nullptr) {
    throw std::runtime_error(std::string(what) + ": " + last_error);
  }
  return {pointer, release};
}

std::vector<float> logits_of(llama_context* context, Ids& ids, int first, bool every) {
  const int count = static_cast<int>(ids.size()) - first;
  llama_batch batch = llama_batch_init(count, 0, 1);
  for (int i = 0; i < count; ++i) {
    batch.token[i] = ids[static_cast<std::size_t>(first + i)];
    batch.pos[i] = first + i;
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = 0;
    batch.logits[i] = every || i == count - 1 ? 1 : 0;
  }
  batch.n_tokens = count;
  const int failed = llama_decode(context, batch);
  llama_batch_free(batch);
  if (failed != 0) {
    throw std::runtime_error("llama_decode: " + std::to_string(failed) + " " + last_error);
  }
  const auto vocab =
      static_cast<std::size_t>(llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(context))));
  std::vector<float> result;
  for (int i = every ? 0 : count - 1; i < count; ++i) {
    const float* row = llama_get_logits_ith(context, i);
    result.insert(result.end(), row, row + vocab);
  }
  return result;
}

Ids continue_prompt(llama_context* context, Ids ids, int tokens) {
  Ids result;
  int done = 0;
  llama_memory_clear(llama_get_memory(context), true);
  for (int i = 0; i < tokens; ++i) {
    const auto logits = logits_of(context, ids, done, false);
    done = static_cast<int>(ids.size());
    result.push_back(static_cast<llama_token>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    ids.push_back(result.back());
  }
  return result;
}

Ids tokenize(const llama_vocab* vocab, const std::string& text, bool add_special, bool parse_special) {
  Ids ids(text.size() + 16);
  const int count = llama_tokenize(vocab, text.data(), static_cast<int>(text.size()), ids.data(),
                                   static_cast<int>(ids.size()), add_special, parse_special);
  if (count < 0) {
    throw std::runtime_error("llama_tokenize: " + std::to_string(count));
  }
  ids.resize(static_cast<std::size_t>(count));
  return ids;
}

void run_prompts(llama_model* model, const Json& request, Json& answer) {
  const auto prompts = request.at("prompts").get<std::vector<Ids>>();
  const int tokens = request.value("tokens", 0);
  std::size_t longest = 0;
  for (const auto& prompt : prompts) {
    longest = std::max(longest, prompt.size());
  }
  auto params = llama_context_default_params();
  params.n_ctx = params.n_batch = params.n_ubatch =
      static_cast<std::uint32_t>(longest + static_cast<std::size_t>(tokens) + 8);
  params.n_threads = params.n_threads_batch = 1;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  params.type_k = params.type_v = GGML_TYPE_F32;
  params.swa_full = true;
  const auto context = owned(llama_init_from_model(model, params), llama_free, "context");
  std::unique_ptr<llama_adapter_lora, void (*)(llama_adapter_lora*)> lora(nullptr, [](auto*) {});
  if (request.contains("lora")) {
    lora.reset(llama_adapter_lora_init(model, request["lora"].get<std::string>().c_str()));
    float scale = 1.0F;
    llama_adapter_lora* adapter = lora.get();
    if (adapter == nullptr || llama_set_adapters_lora(context.get(), &adapter, 1, &scale) != 0) {
      throw std::runtime_error("lora: " + last_error);
    }
  }
  for (auto prompt : prompts) {
    llama_memory_clear(llama_get_memory(context.get()), true);
    const auto flat = logits_of(context.get(), prompt, 0, true);
    const std::size_t vocab = flat.size() / prompt.size();
    Json rows = Json::array();
    for (std::size_t i = 0; i < prompt.size(); ++i) {
      rows.push_back(std::vector<float>(flat.begin() + static_cast<std::ptrdiff_t>(i * vocab),
                                        flat.begin() + static_cast<std::ptrdiff_t>((i + 1) * vocab)));
    }
    answer["logits"].push_back(std::move(rows));
    answer["continuations"].push_back(continue_prompt(context.get(), prompt, tokens));
  }
}

std::string file_to_run(const Json& request) {
  auto file = request.at("model").get<std::string>();
  if (!request.contains("widened")) {
    return file;
  }
  const auto widened = request["widened"].get<std::string>();
  auto params = llama_model_quantize_default_params();
  params.ftype = LLAMA_FTYPE_ALL_F32;
  params.nthread = 1;
  if (llama_model_quantize(file.c_str(), widened.c_str(), &params) != 0) {
    throw std::runtime_error("llama_model_quantize: " + last_error);
  }
  return widened;
}

Json answer_one(const Json& request) {
  last_error.clear();
  Json answer = Json::object();
  try {
    auto params = llama_model_default_params();
    params.vocab_only = !request.contains("prompts");
    params.use_extra_bufts = false; // weights as they are stored
    const auto model =
        owned(llama_model_load_from_file(file_to_run(request).c_str(), params), llama_model_free, "model");
    if (request.contains("prompts")) {
      run_prompts(model.get(), request, answer);
    }
    const llama_vocab* vocab = llama_model_get_vocab(model.get());
    for (const auto& text : request.value("texts", std::vector<std::string>())) {
      answer["ids"].push_back(tokenize(vocab, text, true, true));
      answer["plain_ids"].push_back(tokenize(vocab, text, false, true));
      answer["literal_ids"].push_back(tokenize(vocab, text, false, false));
    }
  } catch (const std::exception& e) {
    answer = {{"error", e.what()}};
  }
  return answer;
}

} // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: oracle REQUESTS.json\n";
    return 2;
  }
  llama_log_set(keep_errors, nullptr);
  llama_backend_init();
  Json answers = Json::array();
  for (const auto& request : Json::parse(std::ifstream(argv[1]))) {
    answers.push_back(answer_one(request));
  }
  std::cout << answers.dump(-1, ' ', false, Json::error_handler_t::replace) << "\n";
  llama_backend_free();
  return 0;
}
