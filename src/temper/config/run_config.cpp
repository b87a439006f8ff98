#include "temper/config/run_config.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include <fmt/format.h>

#include "temper/base/error.h"
#include "temper/base/files.h"
#include "temper/base/log.h"
#include "temper/config/describe.h"
#include "temper/config/run_config_fields.h"
#include "temper/config/settings.h"

namespace temper {
namespace {

void validate_templates(const RunConfig& config) {
  if (config.prompt_template.empty() != config.completion_template.empty()) {
    throw ConfigError("prompt_template and completion_template belong together: give both or neither");
  }
  if (config.data_format == "template" && config.prompt_template.empty()) {
    throw ConfigError("data_format template needs prompt_template and completion_template");
  }
}

// What mlx-lm accepts and Temper has another way for. Leaves "tensorboard" or nothing.
void resolve_report_to(RunConfig& config, const std::string& name) {
  std::string kept;
  std::size_t begin = 0;
  while (begin < config.report_to.size()) {
    const std::size_t end = std::min(config.report_to.find(',', begin), config.report_to.size());
    std::string service = config.report_to.substr(begin, end - begin);
    service.erase(std::remove(service.begin(), service.end(), ' '), service.end());
    if (service == "tensorboard") {
      kept = service;
    } else if (service == "wandb" || service == "swanlab") {
      log::warn(name + ": " + service +
                " is not supported and gets nothing; events.jsonl holds every number, tensorboard plots them");
    } else if (!service.empty()) {
      throw ConfigError(name + ": unknown service '" + service + "'; use tensorboard");
    }
    begin = end + 1;
  }
  config.report_to = kept;
}

std::string compat_of(const std::vector<Setting>& settings) {
  const Setting* strongest = nullptr;
  for (const Setting& setting : settings) {
    if (setting.field->key == "compat" && (strongest == nullptr || setting.level >= strongest->level)) {
      strongest = &setting;
    }
  }
  if (strongest == nullptr) {
    return "none";
  }
  strongest->field->assign(strongest->value, strongest->name);
  return strongest->field->value().get<std::string>();
}

// Defaults that depend on other values. A run that goes on has had them.
void resolve_defaults(RunConfig& config, const StrongestSettings& set, bool goes_on) {
  if (goes_on) {
    return;
  }
  if (config.compat == "mlx-lm") {
    if (set.contains("run_dir") && !set.contains("adapter_path")) {
      config.adapter_path.clear();
    }
    if (config.test && !set.contains("train")) {
      config.train = false; // mlx_lm.lora --test alone tests only
    }
  }
}

RunConfig resolve(RunConfig& config, const FieldList& list, const std::vector<Setting>& settings,
                  bool goes_on = false) {
  RunConfig fresh;
  const FieldList defaults = run_config_fields(fresh);
  if (compat_of(settings) == "mlx-lm") {
    for (const Field& field : list.fields()) {
      if (field.mlx_lm_default) {
        field.assign_json(*field.mlx_lm_default);
      }
    }
  }
  const StrongestSettings set = apply(list, defaults, settings);
  resolve_defaults(config, set, goes_on);
  if (set.contains("report_to")) {
    resolve_report_to(config, set.at("report_to")->name);
  }
  validate(config);
  return config;
}

} // namespace

int RunConfig::num_warmup_steps() const {
  return lr_schedule.warmup.value_or(warmup_steps);
}

RunConfig load_run_config(const ConfigSources& sources) {
  RunConfig config = sources.base.value_or(RunConfig{});
  FieldList list = run_config_fields(config);
  std::string path = sources.yaml_path;
  list.add("config", &path, "a YAML file of these keys").letter('c');
  std::vector<Setting> flags = read_flags(list, sources.flags, "temper train");
  std::vector<Setting> settings;
  if (sources.read_environment) {
    settings = read_environment(list);
  }
  settings.insert(settings.end(), flags.begin(), flags.end());
  for (const Setting& setting : settings) {
    if (setting.field->key == "config") {
      setting.field->assign(setting.value, setting.name);
    }
  }
  if (!path.empty()) {
    const std::string file = std::exchange(path, {}); // a `config` key inside means nothing
    const std::vector<Setting> read = read_tree(list, parse_yaml(read_file(file), file), file);
    settings.insert(settings.begin(), read.begin(), read.end());
  }
  return resolve(config, list, settings, sources.base.has_value());
}

void validate(const RunConfig& config) {
  RunConfig copy = config;
  const FieldList list = run_config_fields(copy);
  for (const Field& field : list.fields()) {
    field.check(field.key);
  }
  if (config.num_layers == 0) {
    throw ConfigError("num_layers 0 trains nothing: give the number of blocks, or -1 for all");
  }
  if (config.test_batches == 0) {
    throw ConfigError("test_batches 0 tests nothing: give the number of batches, or -1 for all");
  }
  if (config.quiet && config.verbose) {
    throw ConfigError("quiet and verbose exclude each other: give one of them");
  }
  check_lora(config.lora_parameters, config.fine_tune_type);
  if (config.lora_parameters.is_pissa() && !config.resume_adapter_file.empty()) {
    throw ConfigError("lora_parameters.init " + config.lora_parameters.init +
                      " and resume_adapter_file exclude each other: both say where the factors start");
  }
  check_optimizer(config.optimizer, config.optimizer_config);
  check_schedule(config.lr_schedule, config.learning_rate);
  read_parameter_groups(config.parameter_groups);
  validate_templates(config);
}

void check_complete(const RunConfig& config) {
  if (config.model.empty()) {
    throw ConfigError("no model: give --model DIR, or `model:` in the configuration file");
  }
  if (config.data.empty() && config.hf_dataset.is_null()) {
    throw ConfigError("no data set: give --data PATH, or `data:` in the configuration file");
  }
  if (!config.train && !config.test) {
    throw ConfigError("nothing to do: give --train, --test or both");
  }
}

Json to_json(const RunConfig& config) {
  RunConfig copy = config;
  RunConfig fresh;
  return values_as_json(run_config_fields(copy), run_config_fields(fresh));
}

RunConfig run_config_from_json(const Json& json) {
  RunConfig config;
  const FieldList list = run_config_fields(config);
  return resolve(config, list, read_tree(list, from_json(json), "the configuration"));
}

std::string to_yaml(const RunConfig& config) {
  RunConfig copy = config;
  RunConfig fresh;
  return values_as_yaml(run_config_fields(copy), run_config_fields(fresh));
}

Json run_config_schema() {
  RunConfig fresh;
  return schema_of(run_config_fields(fresh), "Temper run configuration");
}

std::string run_config_help() {
  RunConfig fresh;
  FieldList list = run_config_fields(fresh);
  // The verb's own, beside the run's.
  std::string path;
  bool print_config = false, json = false, help = false;
  list.group("Command line");
  list.add("config", &path, "a YAML file of these keys, mlx-lm's too").letter('c').metavar("FILE");
  list.add("print_config", &print_config, "print the resolved configuration as YAML and do nothing");
  list.add("json", &json, "print one JSON object on standard output, everything else on standard error");
  list.add("help", &help, "show this").letter('h');
  return flags_help(list);
}

std::string run_config_markdown() {
  RunConfig fresh;
  return keys_as_markdown(run_config_fields(fresh));
}

} // namespace temper
