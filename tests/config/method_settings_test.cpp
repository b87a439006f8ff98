#include "temper/config/run_config.h"

#include <doctest/doctest.h>

#include "config/config_sources.h"

using namespace temper;
using namespace temper::test;

TEST_CASE("a method's settings agree with each other") {
  const auto with = [](const std::string& lora, const std::string& more = "") {
    return yaml_error("lora_parameters: " + lora + "\n" + more);
  };
  CHECK(with("{use_rslora: true}") ==
        "lora_parameters.use_rslora needs lora_parameters.alpha: its scale is alpha / sqrt(rank)");
  CHECK(load("lora_parameters: {use_rslora: true, alpha: 6, rank: 4}\n").lora_parameters.layer_scale() == 3.0);
  for (const std::string init : {"pissa_niter_", "pissa_niter_x", "pissa_niter_-1", "pissa4", "olora"}) {
    CHECK(with("{init: " + init + "}") ==
          "lora_parameters.init: " + init + " is not one of default, pissa, pissa_niter_N");
  }
  CHECK(load("lora_parameters: {init: pissa_niter_16}\n").lora_parameters.pissa_iterations() == 16);
  CHECK(with("{init: pissa}", "fine_tune_type: dora") ==
        "lora_parameters.init pissa is for fine_tune_type lora, not dora");
  CHECK(with("{init: pissa}", "resume_adapter_file: a.safetensors")
            .find("init pissa and resume_adapter_file exclude each other") != std::string::npos);
  CHECK(with("{lr_ratio: 4}", "fine_tune_type: full") ==
        "lora_parameters.lr_ratio means nothing to fine_tune_type full: it trains no adapter");
  CHECK(with("{lr_ratio: 0}").find("lora_parameters.lr_ratio must be above 0") != std::string::npos);
  CHECK(with("{layers: [{rank: 4}]}").find("lora_parameters.layers[0]: needs match") != std::string::npos);
  CHECK(with("{layers: {match: x, rank: 0}}").find("layers[0].rank must be a whole number") !=
        std::string::npos);
  CHECK(with("{layers: [{match: x, alpha: 1, scale: 2}]}")
            .find("layers[0]: alpha and scale exclude each other") != std::string::npos);
  CHECK(yaml_error("neftune_alpha: -1").find("neftune_alpha must be at least 0") != std::string::npos);
}

TEST_CASE("rank and weight by layer: the first rule that fits") {
  const auto lora = load(
                        "lora_parameters:\n  rank: 4\n  alpha: 8\n  layers:\n"
                        "  - {match: '*.layers.1.*', rank: 2}\n  - {match: '*.v_proj', scale: 7}\n"
                        "  - {match: '*', alpha: 16}\n")
                        .lora_parameters;
  const auto rules = lora.layer_rules();
  const auto own = [&](const std::string& layer) { return lora.with(*rule_of(rules, layer)); };
  CHECK(own("model.layers.1.self_attn.v_proj").rank == 2);
  CHECK(own("model.layers.1.self_attn.v_proj").layer_scale() == 4.0);
  CHECK(own("model.layers.0.self_attn.v_proj").rank == 4);
  CHECK(own("model.layers.0.self_attn.v_proj").layer_scale() == 7.0);
  CHECK(own("lm_head").layer_scale() == 4.0);
}

TEST_CASE("an unknown schedule is refused with the choices") {
  CHECK(flag_error({"--lr-schedule", "wavy"}).find("--lr-schedule must be one of constant, linear, cosine") ==
        0);
}

TEST_CASE("an optimizer's options have its own defaults; without its name they are the chosen one's") {
  const auto options = [](std::vector<std::string> flags) {
    return load_flags(std::move(flags)).optimizer_config;
  };
  CHECK(options({"--optimizer", "adamw"}).adamw.weight_decay == 0.01);
  CHECK(options({"--optimizer", "sgd"}).sgd.weight_decay == 0.0);
  CHECK(options({"--optimizer", "sgd", "--weight-decay", "0.2"}).sgd.weight_decay == 0.2);
  CHECK(options({"--optimizer", "lion"}).lion.betas == std::vector<double>{0.9, 0.99});
  const auto lion = options({"--optimizer-config.betas", "0.5,0.6", "--optimizer", "lion"});
  CHECK(lion.lion.betas == std::vector<double>{0.5, 0.6});
  CHECK(lion.adam.betas == std::vector<double>{0.9, 0.999});
  CHECK(load("optimizer_config:\n  momentum: 0.5\noptimizer: muon\n").optimizer_config.muon.momentum == 0.5);
  const Variable decay("TEMPER_WEIGHT_DECAY", "0.3");
  CHECK(options({"--optimizer", "muon"}).muon.weight_decay == 0.3);
  const Variable momentum("TEMPER_OPTIMIZER_CONFIG_MOMENTUM", "0.4");
  CHECK(options({"--optimizer", "muon"}).muon.momentum == 0.4);
}

TEST_CASE("what Muon leaves to AdamW goes by adamw's options, and is kept with Muon's") {
  const RunConfig config = load("optimizer: muon\noptimizer_config:\n  adamw:\n    eps: 1e-6\n");
  CHECK(config.optimizer_config.adamw.eps == 1e-6);
  CHECK(run_config_from_json(to_json(config)).optimizer_config.adamw.eps == 1e-6);
}

TEST_CASE("optimizers: silly options name their place") {
  CHECK(flag_error({"--optimizer-config.betas", "0.9"}) == "--optimizer-config.betas takes 2 numbers, got 1");
  CHECK(yaml_error("optimizer_config:\n  adam:\n    betas: [0.9, 0.99, 0.999]\n") ==
        "run.yaml:3: optimizer_config.adam.betas takes 2 numbers, got 3");
  CHECK(yaml_error("optimizer_config:\n  lion:\n    betas: [0.9, 1]\n") ==
        "run.yaml:3: optimizer_config.lion.betas must be at least 0 and below 1, got 1");
  CHECK(flag_error({"--optimizer-config.eps", "-1e-8"}) ==
        "--optimizer-config.eps must be above 0, got -1e-08");
  CHECK(flag_error({"--optimizer", "adafactor", "--optimizer-config.eps", "1e-8"}) ==
        "--optimizer-config.eps takes 2 numbers, got 1");
  CHECK(flag_error({"--optimizer", "adafactor", "--optimizer-config.warmup-init"}) ==
        "optimizer_config.adafactor.warmup_init needs relative_step");
  CHECK(flag_error({"--optimizer", "adafcator"}).ends_with("did you mean 'adafactor'?"));
  CHECK(yaml_error("optimizer_config:\n  mun:\n    momentum: 1\n") ==
        "run.yaml:3: unknown key 'optimizer_config.mun'; did you mean 'optimizer_config.muon'?");
  CHECK(yaml_error("optimizer_config:\n  muon:\n    ns_step: 1\n") ==
        "run.yaml:3: unknown key 'optimizer_config.muon.ns_step'; did you mean "
        "'optimizer_config.muon.ns_steps'?");
  CHECK(yaml_error("weight_decay: 1\n") ==
        "run.yaml:1: unknown key 'weight_decay'; write it as 'optimizer_config.weight_decay'");
  CHECK(flag_error({"--optimizer", "muon", "--optimizer-config.ns-steps", "0"}) ==
        "--optimizer-config.ns-steps must be at least 1 and at most 99, got 0");
  CHECK(flag_error({"--weight-decay", "0.1"}) == "--weight-decay means nothing to optimizer adam");
}

TEST_CASE("parameter groups: from YAML, as a flag, and silly ones") {
  const RunConfig config = load(
      "parameter_groups:\n  - match: '*.lora_b'\n    learning_rate_ratio: 16\n  - match: '*'\n    "
      "weight_decay: 1e-3\n");
  const auto groups = read_parameter_groups(config.parameter_groups);
  REQUIRE(groups.size() == 2);
  CHECK(groups[0].match == "*.lora_b");
  CHECK(groups[0].learning_rate_ratio == 16.0);
  CHECK_FALSE(groups[0].weight_decay.has_value());
  CHECK(groups[1].learning_rate_ratio == 1.0);
  CHECK(groups[1].weight_decay == 1e-3);
  CHECK(group_of(groups, "model.layers.0.q.lora_b") == &groups[0]);
  CHECK(group_of(groups, "model.layers.0.q.lora_a") == &groups[1]);
  const auto flag = load_flags({"--parameter-groups", R"({"match": "a", "learning_rate_ratio": 0})"});
  CHECK(read_parameter_groups(flag.parameter_groups).front().learning_rate_ratio == 0.0);
  CHECK(yaml_error("parameter_groups: [{match: a, lr: 1}]\n").find("unknown key 'lr'") != std::string::npos);
  CHECK(yaml_error("parameter_groups: [{mach: a}]\n").ends_with("did you mean 'match'?"));
  CHECK(yaml_error("parameter_groups: [{learning_rate_ratio: 2}]\n")
            .starts_with("parameter_groups[0]: needs match"));
  CHECK(yaml_error("parameter_groups: [{match: a}, {match: b, learning_rate_ratio: -1}]\n") ==
        "parameter_groups[1].learning_rate_ratio must be a number of at least 0, got -1");
  CHECK(yaml_error("parameter_groups: [{match: a, weight_decay: much}]\n") ==
        "parameter_groups[0].weight_decay must be a number of at least 0, got \"much\"");
  CHECK(yaml_error("parameter_groups: [16]\n").find("expected an object") != std::string::npos);
}

TEST_CASE("schedules: points in both forms, and silly options") {
  const std::string head = "lr_schedule:\n  name: points\n  points: ";
  for (const std::string form :
       {"[[0, 1e-4], [10, 0]]", "[{step: 0, learning_rate: 1e-4}, {step: 10, learning_rate: 0}]"}) {
    const auto points = schedule_points(load(head + form + "\n").lr_schedule);
    REQUIRE(points.size() == 2);
    CHECK(points[0].learning_rate == 1e-4);
    CHECK(points[1].step == 10);
  }
  const auto error = [&](const std::string& points) { return yaml_error(head + points + "\n"); };
  CHECK(error("[]").starts_with("lr_schedule.points: points needs some"));
  CHECK(yaml_error("lr_schedule: points\n").starts_with("lr_schedule.points: points needs some"));
  CHECK(error("[[100, 1e-3], [10, 0]]") == "lr_schedule.points: step 10 comes after step 100; steps must rise");
  CHECK(error("[[0, 1e-3], [0, 0]]") == "lr_schedule.points: step 0 comes after step 0; steps must rise");
  CHECK(error("[[-1, 1e-3]]") == "lr_schedule.points[0]: a step is a whole number of at least 0, got -1");
  CHECK(error("[[0, fast]]") ==
        "lr_schedule.points[0]: a learning rate is a number of at least 0, got \"fast\"");
  CHECK(error("[[0, 1, 2]]").find("expected an object") != std::string::npos);
  CHECK(flag_error({"--lr-schedule", "cosine_restarts", "--lr-schedule.cycles", "0"}) ==
        "--lr-schedule.cycles must be at least 1 and at most 1000, got 0");
  CHECK(flag_error(
            {"--lr-schedule", "cosine_restarts", "--lr-schedule.cycles", "2", "--lr-schedule.period", "5"}) ==
        "--lr-schedule.cycles and --lr-schedule.period exclude each other: give one of them");
  CHECK(flag_error({"--lr-schedule", "wsd", "--lr-schedule.decay-share", "2"}) ==
        "--lr-schedule.decay-share must be at least 0 and at most 1, got 2");
  CHECK(flag_error({"--lr-schedule", "wsd", "--lr-schedule.decay-shape", "sqrt"}).find("must be one of") !=
        std::string::npos);
  CHECK(flag_error({"--lr-schedule", "linear", "--lr-schedule.cycles", "2"}) ==
        "--lr-schedule.cycles means nothing to lr_schedule.name linear");
  CHECK(flag_error({"--lr-schedule", "step_decay", "--lr-schedule.arguments", "1e-3,0.5,0"}) ==
        "lr_schedule.arguments: step_decay's number 3 counts steps and must be at least 1, got 0");
  CHECK(flag_error({"--lr-schedule", "linear", "--lr-schedule.min-learning-rate", "1"}) ==
        "lr_schedule.min_learning_rate 1 is above learning_rate 1e-05");
  CHECK(flag_error({"--lr-schedule", "polynomial", "--lr-schedule.power", "0"}).find("must be above 0") !=
        std::string::npos);
}

TEST_CASE("a flag that chooses another schedule or optimizer leaves the file's options for the first aside") {
  const std::string yaml =
      "learning_rate: 1e-3\noptimizer_config:\n  betas: [0.5, 0.6]\nlr_schedule:\n  name: cosine\n  "
      "min_learning_rate: 1e-4\n";
  CHECK(load(yaml).lr_schedule.min_learning_rate == 1e-4);
  CHECK(load(yaml, {"--lr-schedule", "constant"}).lr_schedule.min_learning_rate == 0);
  CHECK(load(yaml, {"--optimizer", "sgd"}).optimizer_config.sgd.momentum == 0);
  CHECK(yaml_error("lr_schedule:\n  min_learning_rate: 1e-6\n") ==
        "run.yaml:2: lr_schedule.min_learning_rate means nothing to lr_schedule.name constant");
}
