#include "temper/config/run_config_fields.h"

namespace temper {
namespace {

void list_model(FieldList& list, RunConfig& c) {
  list.group("Model and method");
  list.add("model", &c.model,
           "the model to fine-tune: a folder (config.json, *.safetensors, tokenizer), or org/name on the hub")
      .letter('m')
      .metavar("DIR|NAME");
  list.add("revision", &c.revision, "branch, tag or commit of a model on the hub; none: its main one");
  list.add("fine_tune_type", &c.fine_tune_type,
           "train small updates beside the weights, those and a magnitude a row, or the weights")
      .one_of({"lora", "dora", "full"});
  list.add("num_layers", &c.num_layers, "train the last N blocks; -1: all").at_least(-1).mlx_lm(16);
  list.nested("lora_parameters", [&](FieldList& nested) { c.lora_parameters.list(nested); });
  list.add("train_norms", &c.train_norms, "train the norms too, beside the adapter");
  list.add("train_biases", &c.train_biases, "train the biases too, beside the adapter");
  list.add("trainable_modules", &c.trainable_modules,
           "layers to train whole beside the adapter: embed_tokens, lm_head ...")
      .commas()
      .metavar("A,B");
  list.add("neftune_alpha", &c.neftune_alpha,
           "NEFTune: noise on the embeddings while training, e.g. 5; 0: none")
      .at_least(0);
  list.add("resume", &c.resume, "a run's folder, or one of its checkpoints, to go on from").metavar("DIR");
  list.add("resume_adapter_file", &c.resume_adapter_file, "adapters to start from").metavar("FILE");
  list.add("dtype", &c.dtype, "what the model computes in; auto: the model's own, float32 on a CPU")
      .one_of({"auto", "float32", "bfloat16", "float16"});
  list.add("compat", &c.compat, "mlx-lm: its defaults, targets and loss (docs/guide/from-mlx-lm.md)")
      .one_of({"none", "mlx-lm"});
  list.add("trust_remote_code", &c.trust_remote_code, "accepted and ignored: no code of a model is ever run");
}

void list_data(FieldList& list, RunConfig& c) {
  list.group("Data");
  list.add(
          "data", &c.data,
          "folder with train, valid and test files, a file or pattern, hf://datasets/org/name, s3://bucket/key")
      .letter('d')
      .metavar("PATH")
      .commas();
  list.add("hf_dataset", &c.hf_dataset,
           "mlx-lm's description of a data set: its path, splits and feature names")
      .parts({"path", "name", "config", "train_split", "valid_split", "test_split", "prompt_feature",
              "completion_feature", "text_feature", "chat_feature", "mask_prompt"})
      .metavar("PATH|JSON");
  list.add("data_format", &c.data_format, "what the rows are; auto: as their keys say")
      .one_of({"auto", "chat", "sharegpt", "alpaca", "completion", "text", "template"});
  list.add("prompt_feature", &c.prompt_feature, "key of a row's prompt").metavar("KEY");
  list.add("completion_feature", &c.completion_feature, "key of a row's completion").metavar("KEY");
  list.add("text_feature", &c.text_feature, "key of a row's text").metavar("KEY");
  list.add("chat_feature", &c.chat_feature, "key of a row's messages").metavar("KEY");
  list.add("prompt_template", &c.prompt_template, "the prompt, made of a row's keys: \"Translate: {english}\"");
  list.add("completion_template", &c.completion_template, "the completion, likewise: \"{hawaiian}\"");
  list.add("valid_fraction", &c.valid_fraction,
           "share of the training rows kept for validation when there is no "
           "validation file")
      .at_least(0)
      .below(1);
  list.add("dataset_size", &c.dataset_size, "train on N rows drawn with the seed; 0: all").at_least(0);
  list.add("on_bad_row", &c.on_bad_row, "what a malformed row does").one_of({"stop", "skip"});
  list.add("max_bad_rows", &c.max_bad_rows, "most rows that skip lets pass").at_least(0);
  list.add("mask_prompt", &c.mask_prompt, "learn the answers only, not the prompts").mlx_lm(false);
  list.add("supervise", &c.supervise, "which answers of a chat are learned")
      .one_of({"all-turns", "last-turn"})
      .mlx_lm("last-turn");
  list.add("system_prompt", &c.system_prompt, "put before chats that have none");
  list.add("max_seq_length", &c.max_seq_length, "most tokens of an example; longer ones are cut").at_least(2);
  list.add("packing", &c.packing, "several examples a row, which never see each other").mlx_lm(false);
  list.add("cache_dir", &c.cache_dir, "folder of the token cache; empty: the user's cache folder")
      .metavar("DIR");
}

void list_training(FieldList& list, RunConfig& c) {
  list.group("Training");
  list.add("train", &c.train, "train; without it, only --test");
  list.add("iters", &c.iters, "optimizer steps").at_least(1).unless("epochs");
  list.add("epochs", &c.epochs, "passes over the training set, instead of iters").above(0);
  list.add("batch_size", &c.batch_size, "examples a batch").at_least(1).unless("batch_tokens");
  list.add("batch_tokens", &c.batch_tokens, "tokens a batch, instead of batch_size; 0: unused").at_least(0);
  list.add("grad_accumulation_steps", &c.grad_accumulation_steps, "batches a step").at_least(1);
  list.add("learning_rate", &c.learning_rate, "learning rate, the highest of its schedule").at_least(0);
  list.add("optimizer", &c.optimizer, "optimizer (docs/guide/optimizers.md)").one_of(optimizer_names());
  list.nested("optimizer_config", [&](FieldList& nested) { list_optimizers(nested, c.optimizer_config); });
  list.variants("optimizer_config", "optimizer");
  list.add("parameter_groups", &c.parameter_groups,
           "learning rate and weight decay by name: [{match: \"*.lora_b\", learning_rate_ratio: 16}]")
      .parts({"match", "learning_rate_ratio", "weight_decay"})
      .metavar("JSON");
  list.nested("lr_schedule", [&](FieldList& nested) { c.lr_schedule.list(nested); });
  list.add("warmup_steps", &c.warmup_steps, "short for lr_schedule.warmup")
      .at_least(0)
      .unless("lr_schedule.warmup");
  list.add("max_grad_norm", &c.max_grad_norm, "longer gradients are shortened to it; 0: never")
      .at_least(0)
      .mlx_lm(0.0);
  list.add("grad_checkpoint", &c.grad_checkpoint, "recompute activations: less memory, more time");
  list.add("checkpoints_on_host", &c.checkpoints_on_host,
           "what recomputed blocks keep waits in the host's memory; of use on CUDA");
  list.add("micro_batch_tokens", &c.micro_batch_tokens,
           "tokens that are computed at once: a step of more runs in parts, of the same loss and gradient; 0: "
           "on a "
           "GPU as many as keep it busy, elsewhere all")
      .at_least(0);
  list.add("memory_limit", &c.memory_limit,
           "GB of the device's memory that training may take: it recomputes as few blocks and splits steps as "
           "little "
           "as that needs; 0: what the device has")
      .at_least(0)
      .metavar("GB");
  list.add("attention", &c.attention,
           "what computes attention in training; blocked: in blocks of queries, memory linear in length; auto: "
           "fused where the device has it for training, else blocked")
      .one_of({"auto", "fused", "blocked"});
  list.add("seed", &c.seed, "of the data order, dropout and new weights");
  list.add("deterministic", &c.deterministic, "the same losses bit for bit each run, at some speed");
}

void list_progress(FieldList& list, RunConfig& c) {
  list.group("Progress, evaluation, saving");
  list.add("steps_per_report", &c.steps_per_report, "steps between reports").at_least(1);
  list.add("steps_per_eval", &c.steps_per_eval, "steps between validations").at_least(1);
  list.add("val_batches", &c.val_batches, "batches a validation; -1: all, 0: none").at_least(-1);
  list.add("save_every", &c.save_every, "steps between checkpoints").at_least(1);
  list.add("keep_checkpoints", &c.keep_checkpoints, "periodic checkpoints kept; 0: all").at_least(0).mlx_lm(0);
  list.add("test", &c.test, "loss and perplexity of the test set at the end");
  list.add("test_batches", &c.test_batches, "batches of the test; -1: all").at_least(-1);
  list.add("generate", &c.generate, "answer this prompt before and after training; may be given again")
      .metavar("PROMPT");
  list.add("generate_tokens", &c.generate_tokens, "most tokens of such an answer").at_least(1);
  list.add("run_dir", &c.run_dir, "the run's folder; empty: runs/<model>-<date>-<time>").metavar("DIR");
  list.add("adapter_path", &c.adapter_path, "mlx-lm's name for where adapters go")
      .metavar("DIR")
      .mlx_lm("adapters");
  list.add("report_to", &c.report_to, "tensorboard; events.jsonl is always written").metavar("NAME");
  list.add("project_name", &c.project_name, "a name to find the run by").metavar("NAME");
  list.add("clear_cache_threshold", &c.clear_cache_threshold,
           "memory that the allocator may keep for reuse; 0: a bound of Temper's own")
      .size_in_bytes();
  list.add("verbose", &c.verbose, "say more");
  list.add("quiet", &c.quiet, "say the result only");
}

} // namespace

FieldList run_config_fields(RunConfig& config) {
  FieldList list;
  list_model(list, config);
  list_data(list, config);
  list_training(list, config);
  list_progress(list, config);
  return list;
}

} // namespace temper
