#include "temper/config/run_config.h"

#include <doctest/doctest.h>

#include "config/config_sources.h"

using namespace temper;
using namespace temper::test;

TEST_CASE("flags: mlx-lm's hf_dataset by name, by JSON and by part") {
  CHECK(load_flags({"--hf-dataset", "billsum"}).hf_dataset == Json{{"path", "billsum"}});
  CHECK(load_flags({"--hf-dataset", R"({"path": "a", "train_split": "train[:10]"})"}).hf_dataset ==
        Json{{"path", "a"}, {"train_split", "train[:10]"}});
  CHECK(load("hf_dataset:\n  path: a\n  text_feature: t\n", {"--hf-dataset.path", "b"}).hf_dataset ==
        Json{{"path", "b"}, {"text_feature", "t"}});
  CHECK(flag_error({"--hf-dataset", "{\"pth\": 1}"}) ==
        "--hf-dataset: unknown key 'pth'; did you mean 'path'?");
}

TEST_CASE("mlx-lm's lora_config.yaml works unchanged") {
  const RunConfig config = load(R"(# a file as mlx-lm documents it
model: "mlx_model"
train: true
fine_tune_type: lora
optimizer: adamw
optimizer_config:
  adam: {}
  adamw:
    betas: [0.9, 0.98]
    eps: 1e-6
    weight_decay: 0.05
    bias_correction: true
  muon:
    momentum: 0.95
    ns_steps: 5
data: "/path/to/training/data"
seed: 0
num_layers: 16
batch_size: 4
iters: 1000
val_batches: 25
learning_rate: 1e-5
report_to: null
project_name: null
steps_per_report: 10
steps_per_eval: 200
resume_adapter_file: null
adapter_path: "adapters"
save_every: 100
test: false
test_batches: 100
max_seq_length: 2048
grad_checkpoint: false
grad_accumulation_steps: 1
clear_cache_threshold: 0
mask_prompt: false
trust_remote_code: false
lora_parameters:
  keys: ["self_attn.q_proj", "self_attn.v_proj"]
  rank: 8
  scale: 20.0
  dropout: 0.0
lr_schedule:
  name: cosine_decay
  warmup: 100 # 0 for no warmup
  warmup_init: 1e-7 # 0 if not specified
  arguments: [1e-5, 1000, 1e-7] # passed to scheduler
hf_dataset:
  path: "billsum"
  train_split: "train[:1000]"
  valid_split: "train[-100:]"
  prompt_feature: "text"
  completion_feature: "summary"
  config:
    trust_remote_code: true
)");
  CHECK(config.model == "mlx_model");
  CHECK(config.optimizer_config.adamw.betas == std::vector<double>{0.9, 0.98});
  CHECK(config.optimizer_config.adamw.eps == 1e-6);
  CHECK(config.optimizer_config.adamw.weight_decay == 0.05);
  CHECK(config.learning_rate == 1e-5);
  CHECK(config.resume_adapter_file.empty());
  CHECK(config.report_to.empty());
  CHECK(config.num_layers == 16);
  CHECK(config.lora_parameters.keys.size() == 2);
  CHECK(config.lr_schedule.arguments == std::vector<double>{1e-5, 1000, 1e-7});
  CHECK(config.lr_schedule.warmup == 100);
  CHECK(config.lr_schedule.warmup_init == 1e-7);
  CHECK(config.hf_dataset["prompt_feature"] == "text");
  CHECK(config.hf_dataset["config"]["trust_remote_code"] == true);
  CHECK_FALSE(config.mask_prompt);
}

TEST_CASE("mlx-lm's hf_dataset may be a list; the adapter_config.json it writes loads as a configuration") {
  const RunConfig list = load("hf_dataset:\n  - path: a\n    chat_feature: chosen\n  - name: b\n");
  CHECK(list.hf_dataset.size() == 2);
  CHECK(list.hf_dataset[0]["chat_feature"] == "chosen");
  CHECK(yaml_error("hf_dataset:\n  - pth: a\n").find("unknown key 'pth'") != std::string::npos);
  const RunConfig config = load(R"({"adapter_path": "adapters", "batch_size": 2, "config": "other.yaml",
    "fine_tune_type": "lora", "lr_schedule": null, "lora_parameters": {"rank": 8, "dropout": 0.0, "scale": 20.0},
    "optimizer": "adam", "optimizer_config": {"adam": {}, "adamw": {}, "muon": {}, "sgd": {}, "adafactor": {}},
    "report_to": null, "train": true})");
  CHECK(config.batch_size == 2);
}

TEST_CASE("compat: mlx-lm sets mlx-lm's defaults for what the user did not set") {
  const RunConfig config = load("compat: mlx-lm\nnum_layers: 4\n", {"--max-grad-norm", "0.5"});
  CHECK(config.num_layers == 4);
  CHECK(config.max_grad_norm == 0.5);
  CHECK_FALSE(config.mask_prompt);
  CHECK(config.supervise == "last-turn");
  CHECK_FALSE(config.packing);
  CHECK_FALSE(config.optimizer_config.adam.bias_correction);
  CHECK_FALSE(config.optimizer_config.adamw.bias_correction);
  CHECK(config.optimizer_config.adafactor.relative_step);
  CHECK_FALSE(config.optimizer_config.muon.decoupled);
  CHECK(config.keep_checkpoints == 0);
  CHECK(config.adapter_path == "adapters");
  CHECK(load_flags({"--compat", "mlx-lm"}).num_layers == 16);
  CHECK(load_flags({"--compat", "mlx-lm", "--run-dir", "r"}).adapter_path.empty());
  CHECK(load("compat: mlx-lm\n", {"--compat", "none"}).num_layers == -1);
  CHECK_FALSE(load_flags({"--compat", "mlx-lm", "--test"}).train);
  CHECK(load_flags({"--compat", "mlx-lm", "--test", "--train"}).train);
  const RunConfig again = run_config_from_json(to_json(load_flags({"--compat", "mlx-lm", "--packing"})));
  CHECK(again.packing);
  CHECK(again.num_layers == 16);
}

TEST_CASE("docs/guide/from-mlx-lm.md lists every default that compat: mlx-lm sets") {
  const std::string text =
      read_file(std::filesystem::path(TEMPER_TEST_DATA) / "../../docs/guide/from-mlx-lm.md");
  RunConfig fresh;
  const FieldList list = run_config_fields(fresh);
  for (const Field& field : list.fields()) {
    if (field.mlx_lm_default) {
      CAPTURE(field.key);
      const Json value = *field.mlx_lm_default;
      const std::string shown = value.is_string() ? value.get<std::string>() : dump(value);
      const std::size_t row = text.find("| `" + field.key + "` |");
      REQUIRE(row != std::string::npos);
      const std::string line = text.substr(row, text.find('\n', row) - row);
      CHECK(line.find("`" + shown + "`") != std::string::npos);
    }
  }
}
