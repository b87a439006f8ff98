// Everything a run is told, in one struct. `visit` (run_config.cpp's list) is the only place that knows the
// keys' names, help and ranges; YAML, flags, TEMPER_* variables, --help, the JSON schema and the manifest
// are made from it. Names are mlx-lm's where mlx-lm has the key.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "temper/base/json.h"
#include "temper/config/lora_parameters.h"
#include "temper/config/optimizer_config.h"
#include "temper/config/parameter_groups.h"
#include "temper/config/schedule_config.h"

namespace temper {

struct RunConfig {
  // Model and method
  std::string model;                   // a folder, or a name on the hub
  std::string revision;                // of a model on the hub; empty: main
  std::string fine_tune_type = "lora"; // lora, dora, full
  int num_layers = -1;                 // the last N blocks; -1: all
  LoraParameters lora_parameters;
  bool train_norms = false;                   // beside the adapter
  bool train_biases = false;                  // beside the adapter
  std::vector<std::string> trainable_modules; // trained whole, beside the adapter: embed_tokens, lm_head ...
  double neftune_alpha = 0.0;                 // noise on the embeddings while training; 0: none
  std::string resume_adapter_file;
  std::string resume;             // a run folder (its last checkpoint) or a checkpoint to go on from
  std::string dtype = "auto";     // auto, float32, bfloat16, float16
  std::string compat = "none";    // none, mlx-lm
  bool trust_remote_code = false; // accepted for mlx-lm's sake; nothing remote is ever run

  // Data
  std::string data;
  Json hf_dataset = nullptr;        // mlx-lm's object or list: path, train_split, prompt_feature ...
  std::string data_format = "auto"; // auto, chat, sharegpt, alpaca, completion, text, template
  std::string prompt_feature = "prompt";
  std::string completion_feature = "completion";
  std::string text_feature = "text";
  std::string chat_feature = "messages";
  std::string prompt_template; // "{question}" style, with completion_template
  std::string completion_template;
  double valid_fraction = 0.0;         // split off train when there is no valid file
  int dataset_size = 0;                // use the first N shuffled training rows; 0: all
  std::string on_bad_row = "stop";     // stop, skip
  int max_bad_rows = 100;              // limit of skip
  bool mask_prompt = true;             // only assistant turns or completions are targets
  std::string supervise = "all-turns"; // all-turns, last-turn (mlx-lm's)
  std::string system_prompt;           // put before chats that have none
  int max_seq_length = 2048;
  bool packing = true;
  std::string cache_dir; // token cache; empty: $XDG_CACHE_HOME/temper

  // Training
  bool train = true;
  int iters = 1000;              // optimizer steps (compat mlx-lm: micro-batches)
  std::optional<double> epochs;  // instead of iters
  int batch_size = 4;            // examples a micro-batch
  std::int64_t batch_tokens = 0; // instead of batch_size: a token budget a micro-batch
  int grad_accumulation_steps = 1;
  std::int64_t micro_batch_tokens = 0; // computed at once; 0: usual_micro_batch_tokens() on a GPU
  double learning_rate = 1e-5;
  std::string optimizer = "adam"; // optimizer_names()
  OptimizerConfig optimizer_config;
  Json parameter_groups = nullptr; // read_parameter_groups()
  ScheduleConfig lr_schedule;
  int warmup_steps = 0;
  double max_grad_norm = 1.0;   // 0: no clipping
  bool grad_checkpoint = false; // all blocks
  bool checkpoints_on_host = false;
  double memory_limit = 0.0;      // GB the device may hold; 0: what it has
  std::string attention = "auto"; // attention_kernel_named()
  std::uint64_t seed = 0;
  bool deterministic = false;

  // Progress, evaluation, saving
  int steps_per_report = 10;
  int steps_per_eval = 200;
  int val_batches = 25;     // -1: all
  int save_every = 100;     // steps
  int keep_checkpoints = 3; // periodic ones; best and last are kept anyway; 0: all
  bool test = false;
  int test_batches = 500;            // -1: all
  std::vector<std::string> generate; // prompts answered by base and fine-tuned model after training
  int generate_tokens = 128;
  std::string run_dir;      // empty: runs/<model>-<date>-<time>
  std::string adapter_path; // mlx-lm's name for where adapters go; the run folder unless run_dir is set
  std::string report_to;    // "", tensorboard
  std::string project_name;
  std::uint64_t clear_cache_threshold = 0; // bytes the allocator's cache may hold; 0: the default bound
  bool verbose = false;
  bool quiet = false;

  // Steps of warm-up: lr_schedule.warmup if set, else warmup_steps.
  int num_warmup_steps() const;
};

// Where values come from, strongest first: flags, TEMPER_* variables, the YAML file, defaults.
struct ConfigSources {
  std::string yaml_path;          // may be empty; --config among the flags wins over it
  std::vector<std::string> flags; // "--iters", "100", "--lora-parameters.rank=4", "--train" ...
  bool read_environment = true;
  std::optional<RunConfig> base = {}; // instead of the defaults: the configuration of a run to go on with
};

// Resolves and validates. Of two keys that exclude each other (iters and epochs, alpha and scale, batch_size
// and batch_tokens) the stronger source's counts. Throws ConfigError: unknown key (with the nearest name),
// wrong type, out of range, contradiction; names file:line for YAML, the variable or the flag otherwise.
// Throws IoError if the YAML file can't be read. Warns of mlx-lm's settings that do nothing here.
RunConfig load_run_config(const ConfigSources& sources);

// Checks ranges and combinations of a config made in code. Throws ConfigError.
void validate(const RunConfig& config);

// Checks that there is a model, a data set and something to do: what a run needs beyond a valid config.
// Throws ConfigError.
void check_complete(const RunConfig& config);

// Every key with its value, in the visit list's order (the manifest, --print-config as JSON).
Json to_json(const RunConfig& config);
RunConfig run_config_from_json(const Json& json); // throws ConfigError
std::string to_yaml(const RunConfig& config);     // --print-config
Json run_config_schema();                         // JSON Schema draft 2020-12
std::string run_config_help();                    // the flags, grouped, each with its default
std::string run_config_markdown();                // the keys as tables (docs/formats/config.md)

} // namespace temper
