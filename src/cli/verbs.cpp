#include "cli/verbs.h"

namespace temper::cli {

const std::vector<Verb>& verbs() {
  static const std::vector<Verb> kVerbs = {
      {"train", "fine-tune a model on a data set", run_train},
      {"eval", "loss and perplexity on a data set, and scores of answers", run_eval},
      {"generate", "answer one prompt", run_generate},
      {"chat", "talk with a model in the terminal", run_chat},
      {"fuse", "merge an adapter into its model", run_fuse},
      {"export", "write a model or an adapter for llama.cpp and Ollama", run_export},
      {"adapter", "convert adapters from and to PEFT, or add several up", run_adapter},
      {"convert", "quantize or unpack a model, or change its dtype", run_convert},
      {"upload", "send an adapter, a model or a GGUF file to the hub", run_upload},
      {"data", "check, preview and prepare data sets", run_data},
      {"models", "the model families that can be trained, or what a model folder is", run_models},
      {"bench", "time the parts of a run on random weights", run_bench},
  };
  return kVerbs;
}

} // namespace temper::cli
