// temper train: fine-tunes a model on a data set.
#include <cstdio>
#include <string>
#include <vector>

#include "cli/args.h"
#include "cli/interrupt.h"
#include "cli/terminal_view.h"
#include "cli/verb.h"
#include "cli/verbs.h"
#include "temper/base/error.h"
#include "temper/base/log.h"
#include "temper/config/run_config.h"
#include "temper/train/run.h"

namespace temper::cli {
namespace {

constexpr const char* kExample =
    "temper train --model models/Llama-3.2-1B --data data/ --iters 600 --learning-rate 1e-4 --test";

std::string train_help() {
  return format_help("temper train [--config FILE] [flags]",
                     "Fine-tunes a model on a data set: validates while it trains, saves, tests.\n"
                     "Values come from flags, TEMPER_* variables, the YAML file, then defaults.",
                     run_config_help(), kExample);
}

RunConfig read_config(const Arguments& arguments) {
  ConfigSources sources;
  sources.flags = arguments;
  auto config = load_run_config(sources);
  if (!config.resume.empty()) {
    // What the run was started with stands where the command line says nothing.
    sources.base = resumed_config(config.resume);
    config = load_run_config(sources);
  }
  return config;
}

} // namespace

int run_train(const Arguments& given) {
  auto arguments = given;
  if (take_flag(arguments, "--help") || take_flag(arguments, "-h")) {
    std::fputs(train_help().c_str(), stdout);
    return 0;
  }
  const bool print_config = take_flag(arguments, "--print-config");
  const bool json = take_flag(arguments, "--json");
  const auto config = read_config(arguments);
  if (print_config) {
    json ? print_json(to_json(config)) : static_cast<void>(std::fputs(to_yaml(config).c_str(), stdout));
    return 0;
  }
  log::set_level(config.quiet ? log::Level::warn : config.verbose ? log::Level::debug : log::Level::info);

  catch_interrupts();
  auto options = detect_terminal(stderr);
  options.quiet = config.quiet;
  options.verbose = config.verbose;
  TerminalView view(stderr, options);
  RunHooks hooks;
  hooks.sinks = {&view};
  hooks.interrupt = &interrupt_signal();
  const auto result = run_training(config, hooks);
  if (json) {
    Json out = result.summary;
    out["run_dir"] = result.run_dir;
    out["steps"] = result.steps;
    print_json(out);
  }
  if (const int signal = interrupt_signal().load(); signal != 0 && result.reason == "interrupted") {
    log::info("Stopped at step " + std::to_string(result.steps) +
              "; everything is saved. To go on:\n  temper train --resume " + result.run_dir);
    return interrupt_exit_code(signal);
  }
  return 0;
}

} // namespace temper::cli
