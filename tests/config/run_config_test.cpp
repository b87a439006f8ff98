#include "temper/config/run_config.h"

#include <doctest/doctest.h>

#include <filesystem>
#include <map>
#include <set>

#include "config/config_sources.h"
#include "temper/base/files.h"
#include "temper/base/log.h"
#include "temper/config/run_config_fields.h"

using namespace temper;
using namespace temper::test;

namespace {

// Gives a member another valid value.
struct Change {
  const Field& field;
  void operator()(bool* member) const {
    *member = !*member;
  }
  void operator()(std::string* member) const {
    if (field.choices.empty()) {
      *member += "\"odd: #1'\n\xc3\xa9 {x}";
    } else if (field.key != "optimizer") {
      *member = field.choices.back() == *member ? field.choices.front() : field.choices.back();
    }
  }
  void operator()(double* member) const {
    *member = (field.min.value_or(0) + field.max.value_or(1)) / 2 + *member / 1e3 + 1e-7 / 3;
  }
  void operator()(std::optional<int>*) const {
  }
  void operator()(std::optional<double>*) const {
  }
  void operator()(std::vector<std::string>* member) const {
    *member = {"first, one", "null", ""};
  }
  void operator()(std::vector<double>* member) const {
    *member = {0.25, 0.75, 1e-7};
    member->resize(field.list_size.value_or(3));
  }
  void operator()(Json* member) const {
    *member = Json{{"path", "org/set"}, {"train_split", "train[:80%]"}};
    if (field.key == "lora_parameters.layers") {
      *member = Json::array({Json{{"match", "*.down_proj"}, {"rank", 4}, {"alpha", 2.5}}});
    } else if (field.key == "parameter_groups") {
      *member = Json::array({Json{{"match", "*.lora_b"}, {"learning_rate_ratio", 16}}});
    } else if (field.key == "lr_schedule.points") {
      *member =
          Json::array({Json{{"step", 0}, {"learning_rate", 1e-4}}, Json{{"step", 9}, {"learning_rate", 0}}});
    }
  }
  template <class T>
  void operator()(T* member) const {
    *member += 3;
  }
};

// A valid value of every key, none of them the default.
RunConfig unusual(const std::string& optimizer, const std::string& schedule = "step_decay") {
  RunConfig config;
  config.optimizer = optimizer;
  const FieldList list = run_config_fields(config);
  for (const Field& field : list.fields()) {
    std::visit(Change{field}, field.target);
  }
  config.lr_schedule.name = schedule;
  config.lr_schedule.arguments = {0.25, 0.75, 7};
  config.lr_schedule.min_learning_rate = 1e-9;
  if (optimizer == "sgd") {
    config.optimizer_config.sgd.dampening = 0; // nesterov
  }
  config.fine_tune_type = "dora";
  config.lora_parameters.use_rslora = false; // needs alpha, which displaces scale
  config.lora_parameters.init = "default";   // not beside resume_adapter_file
  config.report_to = "tensorboard";
  config.seed = 18446744073709551615ULL;
  config.batch_tokens = 0;
  config.quiet = false;
  return config;
}

} // namespace

TEST_CASE("defaults are valid, and mlx-lm's where mlx-lm has the key") {
  const RunConfig config = load_flags({});
  CHECK_NOTHROW(validate(RunConfig()));
  CHECK(to_json(config) == to_json(RunConfig()));
  CHECK(config.iters == 1000);
  CHECK(config.learning_rate == 1e-5);
  CHECK(config.lora_parameters.layer_scale() == 20.0);
}

TEST_CASE("every field survives JSON and YAML and back") {
  std::set<std::string> seen;
  const auto check = [&](RunConfig config) {
    CAPTURE(config.optimizer);
    CAPTURE(config.lr_schedule.name);
    RunConfig fresh;
    const FieldList before = run_config_fields(config), defaults = run_config_fields(fresh);
    for (const Field& field : before.fields()) {
      const bool is_kept = field.is_optional() || field.key == "batch_tokens" || field.key == "quiet" ||
                           field.key == "optimizer" || field.key == "optimizer_config.sgd.dampening" ||
                           field.key == "lora_parameters.use_rslora" || field.key == "lora_parameters.init";
      CHECK_MESSAGE((is_kept || field.value() != defaults.find(field.key)->value()), field.key);
    }
    REQUIRE_NOTHROW(validate(config));
    RunConfig by_json = run_config_from_json(parse_json(dump(to_json(config)), "test"));
    RunConfig by_yaml = load(to_yaml(config));
    const FieldList json_fields = run_config_fields(by_json), yaml_fields = run_config_fields(by_yaml);
    for (const Field& field : before.fields()) {
      if (before.applies(field)) {
        seen.insert(field.key);
        CAPTURE(field.key);
        CHECK(json_fields.find(field.key)->value() == field.value());
        CHECK(yaml_fields.find(field.key)->value() == field.value());
      }
    }
  };
  for (const auto& optimizer : optimizer_names()) {
    check(unusual(optimizer));
  }
  RunConfig fresh;
  const FieldList list = run_config_fields(fresh);
  for (const std::string schedule : {"cosine_restarts", "step", "polynomial", "wsd", "points"}) {
    check(unusual("adamw", schedule));
  }
  CHECK(seen.size() == list.fields().size());
}

TEST_CASE("keys that displace others survive JSON and YAML and back") {
  const RunConfig config = load_flags(
      {"--epochs", "2.5", "--lora-alpha", "16", "--batch-tokens", "4096", "--lr-schedule.warmup", "7"});
  const Json json = to_json(config);
  CHECK(json["iters"].is_null());
  CHECK(json["batch_size"].is_null());
  CHECK(json["lora_parameters"]["scale"].is_null());
  for (const RunConfig& again : {run_config_from_json(json), load(to_yaml(config))}) {
    CHECK(to_json(again) == json);
    CHECK(again.epochs == 2.5);
    CHECK(again.lora_parameters.layer_scale() == 2.0);
    CHECK(again.batch_tokens == 4096);
    CHECK(again.num_warmup_steps() == 7);
  }
}

TEST_CASE("every field is settable by flag and by variable") {
  RunConfig config = unusual("adamw");
  RunConfig fresh;
  const FieldList list = run_config_fields(config), defaults = run_config_fields(fresh);
  for (const Field& field : list.fields()) {
    const Json value = field.value();
    const Json usual = defaults.find(field.key)->value();
    if (value == usual || !list.applies(field) || field.key == "compat" || field.key == "generate" ||
        field.key == "lora_parameters.keys" || field.key == "hf_dataset" || field.key == "data_format" ||
        field.key.find("template") != std::string::npos || field.key == "lr_schedule.arguments" ||
        field.key == "parameter_groups" || field.key == "lora_parameters.layers") {
      continue; // not text of its own, or needs others beside it
    }
    CAPTURE(field.key);
    std::string text = value.is_string() ? value.get<std::string>() : dump(value);
    std::vector<std::string> flags = {field.dashed() + "=" + text};
    std::string variable = "TEMPER_" + field.key;
    for (char& c : variable) {
      c = c == '.' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    }
    std::vector<std::string> others = {"--optimizer=adamw"};
    if (field.key == "lr_schedule.name") {
      others.push_back("--lr-schedule.arguments=0.1,0.5,10");
    }
    flags.insert(flags.end(), others.begin(), others.end());
    CHECK(value_of(load_flags(flags), field.key) == value);
    const Variable set(variable.c_str(), text.c_str());
    CHECK(value_of(load_flags(others), field.key) == value);
  }
}

TEST_CASE("flags win over variables, variables over the file, the file over defaults") {
  const std::string yaml = "iters: 11\nseed: 11\nbatch_size: 11\n";
  const Variable iters("TEMPER_ITERS", "22");
  const Variable seed("TEMPER_SEED", "22");
  const RunConfig config = load(yaml, {"--iters", "33"});
  CHECK(config.iters == 33);
  CHECK(config.seed == 22);
  CHECK(config.batch_size == 11);
  CHECK(config.save_every == 100);
}

TEST_CASE("flags: spellings") {
  CHECK(load_flags({"--lora-parameters.rank", "4"}).lora_parameters.rank == 4);
  CHECK(load_flags({"--lora_parameters.rank=4"}).lora_parameters.rank == 4);
  CHECK(load_flags({"--lora-rank", "4"}).lora_parameters.rank == 4);
  CHECK(load_flags({"--lora-alpha", "4"}).lora_parameters.alpha == 4.0);
  CHECK(load_flags({"--lora-dropout", ".1"}).lora_parameters.dropout == 0.1);
  CHECK(load_flags({"--num-layers", "-1"}).num_layers == -1);
  CHECK(load_flags({"--iters", "1", "--iters", "2"}).iters == 2);
  CHECK(load_flags({"-m", "models/llama"}).model == "models/llama");
  CHECK(load_flags({"--clear-cache-threshold", "1.5GB"}).clear_cache_threshold == 1500000000);
  CHECK(
      load_flags({"--optimizer", "AdamW", "--optimizer-config.adamw.eps", "1e-6"}).optimizer_config.adamw.eps ==
      1e-6);
  CHECK(load_flags({"--lr-schedule", "cosine"}).lr_schedule.name == "cosine");
  CHECK(load_flags({"--lr-schedule.name", "cosine", "--lr-schedule.warmup", "10"}).num_warmup_steps() == 10);
}

TEST_CASE("flags: booleans") {
  CHECK(load_flags({"--test"}).test);
  CHECK(load_flags({"--test", "--seed", "1"}).test);
  CHECK_FALSE(load_flags({"--packing", "false"}).packing);
  CHECK_FALSE(load_flags({"--packing=off"}).packing);
  CHECK_FALSE(load_flags({"--no-packing"}).packing);
  CHECK(load_flags({"--no-packing", "--packing"}).packing);
  CHECK(flag_error({"--no-iters"}).find("unknown flag --no-iters") == 0);
  CHECK(flag_error({"--no-packing=false"}).find("unknown flag") == 0);
}

TEST_CASE("flags: lists") {
  const std::vector<std::string> keys = {"self_attn.q_proj", "mlp.up_proj"};
  CHECK(load_flags({"--lora-keys", "self_attn.q_proj,mlp.up_proj"}).lora_parameters.keys == keys);
  CHECK(load_flags({"--lora-keys", "self_attn.q_proj", "mlp.up_proj", "--test"}).lora_parameters.keys == keys);
  CHECK(load_flags({"--lora-keys", "self_attn.q_proj", "--lora-keys", "mlp.up_proj"}).lora_parameters.keys ==
        keys);
  CHECK(load_flags({"--lora-parameters.keys", "[\"self_attn.q_proj\", mlp.up_proj]"}).lora_parameters.keys ==
        keys);
  const RunConfig config = load_flags({"--generate", "Hello, [you]", "--generate=--again"});
  CHECK(config.generate == std::vector<std::string>{"Hello, [you]", "--again"});
}

TEST_CASE("an unknown key or flag is an error that names the nearest one") {
  CHECK(yaml_error("model: m\nlearing_rate: 1\n") ==
        "run.yaml:2: unknown key 'learing_rate'; did you mean 'learning_rate'?");
  CHECK(yaml_error("lora_parameters:\n  rnak: 1\n") ==
        "run.yaml:2: unknown key 'lora_parameters.rnak'; did you mean 'lora_parameters.rank'?");
  CHECK(yaml_error("optimizer_config:\n  adam:\n    epsilon: 1\n").find("run.yaml:3: unknown key") == 0);
  CHECK(yaml_error("lora_rank: 8\n") ==
        "run.yaml:1: unknown key 'lora_rank'; write it as 'lora_parameters.rank'");
  CHECK(flag_error({"--learing-rate", "1"}) == "unknown flag --learing-rate; did you mean --learning-rate?");
  CHECK(flag_error({"--xyzzyx", "1"}) == "unknown flag --xyzzyx; see `temper train --help`");
  CHECK(flag_error({"-q"}) == "unknown flag -q; see `temper train --help`");
  CHECK(flag_error({"run.yaml"}) == "unexpected argument 'run.yaml'; see `temper train --help`");
  CHECK(message_of<ConfigError>([] {
          run_config_from_json(Json{{"itres", 1}});
        }) == "the configuration: unknown key 'itres'; did you mean 'iters'?");
}

TEST_CASE("a value of the wrong type or out of range names its place") {
  CHECK(yaml_error("model: m\niters: many\n") == "run.yaml:2: iters: expected a whole number, got 'many'");
  CHECK(yaml_error("iters: 1.5\n") == "run.yaml:1: iters: expected a whole number, got '1.5'");
  CHECK(yaml_error("iters: [1]\n") == "run.yaml:1: iters: expected a whole number, got [1]");
  CHECK(yaml_error("learning_rate: fast\n") == "run.yaml:1: learning_rate: expected a number, got 'fast'");
  CHECK(yaml_error("mask_prompt: perhaps\n") ==
        "run.yaml:1: mask_prompt: expected true or false, got 'perhaps'");
  CHECK(yaml_error("model: [a]\n") == "run.yaml:1: model: expected text, got [\"a\"]");
  CHECK(yaml_error("lora_parameters: 8\n") == "run.yaml:1: lora_parameters: expected keys and values, got '8'");
  CHECK(yaml_error("- iters\n") == "run.yaml: expected keys and values, got [\"iters\"]");
  CHECK(yaml_error("lora_parameters:\n  rank: 0\n") ==
        "run.yaml:2: lora_parameters.rank must be at least 1, got 0");
  CHECK(flag_error({"--learning-rate", "-1e-5"}) == "--learning-rate must be at least 0, got -1e-05");
  CHECK(flag_error({"--learning-rate", "nan"}) == "--learning-rate: expected a number, got 'nan'");
  CHECK(flag_error({"--lora-dropout", "1"}) == "--lora-dropout must be at least 0 and below 1, got 1");
  CHECK(flag_error({"--iters", "99999999999"}) == "--iters: '99999999999' is out of range");
  CHECK(flag_error({"--seed", "-1"}) == "--seed must be at least 0, got -1");
  CHECK(flag_error({"--iters"}) == "--iters needs a value");
  CHECK(flag_error({"--iters", "--test"}) ==
        "--iters needs a value (one that starts with -- is written --iters=VALUE)");
  CHECK(flag_error({"--clear-cache-threshold", "big"}) ==
        "--clear-cache-threshold: expected a size such as 500M or 2GB, got 'big'");
  CHECK(flag_error({"--dtype", "bfloat"}) ==
        "--dtype must be one of auto, float32, bfloat16, float16, got 'bfloat'; did you mean 'bfloat16'?");
  const Variable iters("TEMPER_ITERS", "x");
  CHECK(message_of<ConfigError>([] { load_flags({}); }) == "TEMPER_ITERS: expected a whole number, got 'x'");
  CHECK(message_of<ConfigError>([] {
          run_config_from_json(Json{{"iters", "10"}});
        }) == "iters: expected a whole number, got \"10\"");
  CHECK(run_config_from_json(Json{{"iters", 10.0}}).iters == 10);
  CHECK(message_of<ConfigError>([] {
          run_config_from_json(Json{{"iters", 1e300}});
        }).find("expected a whole number") != std::string::npos);
  CHECK(message_of<ConfigError>([] {
          run_config_from_json(Json{{"iters", 1e12}});
        }).find("out of range") != std::string::npos);
  CHECK(message_of<ConfigError>([] {
          run_config_from_json(Json{{"iters", std::int64_t{1} << 40}});
        }).find("out of range") != std::string::npos);
}

TEST_CASE("contradictions in one source are errors, a stronger source wins") {
  CHECK(flag_error({"--iters", "5", "--epochs", "1"}) ==
        "--iters and --epochs exclude each other: give one of them");
  CHECK(
      yaml_error("lora_parameters:\n  scale: 2\n  alpha: 4\n") ==
      "run.yaml:2: lora_parameters.scale and run.yaml:3: lora_parameters.alpha exclude each other: give one of "
      "them");
  CHECK(flag_error({"--batch-size", "5", "--batch-tokens", "1000"}).find("exclude each other") !=
        std::string::npos);
  CHECK(flag_error({"--warmup-steps", "5", "--lr-schedule.warmup", "6"}).find("exclude") != std::string::npos);
  CHECK(flag_error({"--batch-size", "5", "--batch-tokens", "0"}).empty());
  CHECK(load("iters: 500\n", {"--epochs", "2"}).epochs == 2.0);
  const RunConfig by_iters = load("epochs: 2\n", {"--iters", "500"});
  CHECK(by_iters.iters == 500);
  CHECK_FALSE(by_iters.epochs.has_value());
  CHECK(load("lora_parameters:\n  scale: 20.0\n", {"--lora-alpha", "16"}).lora_parameters.layer_scale() == 2.0);
  CHECK(load("lora_parameters:\n  alpha: 16\n", {"--lora-scale", "5"}).lora_parameters.layer_scale() == 5.0);
}

TEST_CASE("combinations that can't work are errors") {
  CHECK(flag_error({"--num-layers", "0"}).find("num_layers 0 trains nothing") == 0);
  CHECK(flag_error({"--test-batches", "0"}).find("test_batches 0 tests nothing") == 0);
  CHECK(flag_error({"--quiet", "--verbose"}).find("exclude each other") != std::string::npos);
  CHECK(flag_error({"--optimizer", "sgd", "--optimizer-config.nesterov"}) ==
        "optimizer_config.sgd.nesterov needs a momentum above 0 and no dampening");
  CHECK(flag_error({"--optimizer-config.momentum", "0.9"}) ==
        "--optimizer-config.momentum means nothing to optimizer adam");
  CHECK(flag_error({"--lr-schedule", "cosine", "--lr-schedule.arguments", "1,2"}) ==
        "--lr-schedule.arguments means nothing to lr_schedule.name cosine");
  CHECK(flag_error({"--lr-schedule", "step_decay"}) ==
        "lr_schedule.arguments: step_decay takes 3 numbers, got 0");
  CHECK(flag_error({"--lr-schedule", "cosine_decay", "--lr-schedule.arguments", "1e-5"}) ==
        "lr_schedule.arguments: cosine_decay takes 2 or 3 numbers, got 1");
  CHECK(flag_error({"--prompt-template", "{q}"}).find("belong together") != std::string::npos);
  CHECK(flag_error({"--data-format", "template"}).find("needs prompt_template") != std::string::npos);
  RunConfig config;
  config.lora_parameters.rank = 0;
  CHECK(message_of<ConfigError>([&] { validate(config); }) == "lora_parameters.rank must be at least 1, got 0");
  config.lora_parameters.rank = 1;
  config.learning_rate = std::numeric_limits<double>::quiet_NaN();
  CHECK(message_of<ConfigError>([&] { validate(config); }).find("learning_rate must be") == 0);
}

TEST_CASE("a run needs a model, a data set and something to do") {
  RunConfig config;
  CHECK(message_of<ConfigError>([&] { check_complete(config); }).find("no model") == 0);
  config.model = "m";
  CHECK(message_of<ConfigError>([&] { check_complete(config); }).find("no data set") == 0);
  config.hf_dataset = Json{{"path", "x"}};
  CHECK_NOTHROW(check_complete(config));
  config.train = false;
  CHECK(message_of<ConfigError>([&] { check_complete(config); }).find("nothing to do") == 0);
}

TEST_CASE("null means the default") {
  const RunConfig config = load("iters: null\nlora_parameters:\nlr_schedule: ~\nhf_dataset: null\nepochs:\n");
  CHECK(to_json(config) == to_json(RunConfig()));
  CHECK_FALSE(load("epochs: 3\n", {"--epochs", "none"}).epochs.has_value());
}

TEST_CASE("report_to keeps what Temper writes and refuses what nobody knows") {
  log::set_level(log::Level::error); // the warnings are not this test's matter
  CHECK(load_flags({"--report-to", "wandb, tensorboard"}).report_to == "tensorboard");
  CHECK(load_flags({"--report-to", "swanlab"}).report_to.empty());
  CHECK(flag_error({"--report-to", "abacus"}) == "--report-to: unknown service 'abacus'; use tensorboard");
  log::set_level(log::Level::info);
}

TEST_CASE("the configuration file is named by flag, by variable or by the caller") {
  const ConfigFile a("iters: 7\n"), b("iters: 8\n");
  CHECK(load_flags({"-c", a.path()}).iters == 7);
  CHECK(load_run_config({b.path(), {"--config", a.path()}, false}).iters == 7);
  const Variable config("TEMPER_CONFIG", b.path().c_str());
  CHECK(load_flags({}).iters == 8);
  CHECK_THROWS_AS(load_flags({"-c", "/nowhere/at/all.yaml"}), IoError);
}

TEST_CASE("a run that goes on keeps its configuration but for what is said anew") {
  ConfigSources sources;
  sources.base = load_flags({"--compat", "mlx-lm", "--packing", "--optimizer", "sgd", "--weight-decay", "0.2",
                             "--epochs", "2", "--seed", "3"});
  sources.flags = {"--iters", "50", "--test"};
  const RunConfig config = load_run_config(sources);
  CHECK(config.packing);
  CHECK(config.num_layers == 16);
  CHECK(config.optimizer_config.sgd.weight_decay == 0.2);
  CHECK(config.seed == 3);
  CHECK(config.iters == 50);
  CHECK_FALSE(config.epochs.has_value());
  CHECK(config.train);
}

TEST_CASE("help and schema know every key") {
  RunConfig fresh;
  const FieldList list = run_config_fields(fresh);
  const std::string help = run_config_help();
  const Json schema = run_config_schema();
  std::map<std::string, int> seen;
  for (const Field& field : list.fields()) {
    CAPTURE(field.key);
    CHECK(++seen[field.key] == 1);
    CHECK_FALSE(field.help.empty());
    CHECK(help.find(field.dashed()) != std::string::npos);
    CHECK(schema["properties"].contains(field.key.substr(0, field.key.find('.'))));
  }
  CHECK(help.find("(default: 1e-05)") != std::string::npos);
  CHECK(schema["properties"]["lora_parameters"]["properties"]["rank"]["minimum"] == 1.0);
  CHECK(schema["properties"]["optimizer_config"]["properties"]["sgd"]["properties"].contains("momentum"));
  CHECK(schema["properties"]["iters"]["type"] == Json::array({"integer", "null"}));
}

TEST_CASE("docs/formats/config.md holds every key (TEMPER_UPDATE_DOCS=1 rewrites its tables)") {
  const std::filesystem::path path = std::filesystem::path(TEMPER_TEST_DATA) / "../../docs/formats/config.md";
  const std::string mark = "<!-- tables -->\n";
  const std::string text = read_file(path);
  const std::size_t at = text.find(mark);
  REQUIRE(at != std::string::npos);
  const std::string expected = text.substr(0, at + mark.size()) + run_config_markdown();
  if (std::getenv("TEMPER_UPDATE_DOCS") != nullptr) {
    write_file_atomic(path, expected);
  }
  CHECK(read_file(path) == expected);
}
