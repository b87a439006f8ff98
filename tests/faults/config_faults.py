"""Configurations and command lines that are refused."""

from box import Box
from fault import CONFIG, IO, OK, check, fault


def with_yaml(box: Box, text: str) -> list[str]:
    (box.root / "run.yaml").write_text(text)
    return box.train("--config", "run.yaml")


@fault(CONFIG, r"TEMPER_THREADS 'many' is not a number of threads from 1 to 1024")
def threads_in_words(box: Box) -> None:
    box.environment["TEMPER_THREADS"] = "many"


@fault(CONFIG, r"TEMPER_THREADS '99999999999' is not a number of threads from 1 to 1024")
def more_threads_than_a_machine_has(box: Box) -> None:
    box.environment["TEMPER_THREADS"] = "99999999999"


@fault(CONFIG, r"--lora-rank must be at least 1, got 0")
def rank_0(box: Box) -> list[str]:
    return box.train("--lora-rank", "0")


@fault(CONFIG, r"lora_parameters\.use_rslora needs lora_parameters\.alpha: its scale is alpha / sqrt\(rank\)")
def rsLoRA_without_alpha(box: Box) -> list[str]:
    return box.train("--lora-parameters.use-rslora")


@fault(CONFIG, r"lora_parameters\.init: pisa is not one of default, pissa, pissa_niter_N")
def a_misspelt_start(box: Box) -> list[str]:
    return box.train("--lora-parameters.init", "pisa")


@fault(CONFIG, r"lora_parameters\.init pissa is for fine_tune_type lora, not dora")
def PiSSA_with_DoRA(box: Box) -> list[str]:
    return box.train("--lora-parameters.init", "pissa", "--fine-tune-type", "dora")


@fault(CONFIG, r"lora_parameters\.init pissa: rank 40 is more than a weight of shape \[32, 32\] has singular values")
def PiSSA_of_too_high_a_rank(box: Box) -> list[str]:
    return box.train("--lora-parameters.init", "pissa", "--lora-rank", "40", "--lora-keys", "self_attn.q_proj")


@fault(CONFIG, r"lora_parameters\.layers: '\*\.w_proj' fits no adapted layer .*, such as model\.layers\.0\.self_attn\.q_proj")
def a_rule_for_no_layer(box: Box) -> list[str]:
    return with_yaml(box, "lora_parameters:\n  layers: [{match: '*.w_proj', rank: 4}]\n")


@fault(CONFIG, r"lora_parameters\.lr_ratio means nothing to fine_tune_type full: it trains no adapter")
def LoRA_plus_of_no_adapter(box: Box) -> list[str]:
    return box.train("--lora-parameters.lr-ratio", "4", "--fine-tune-type", "full")


@fault(CONFIG, r"lora_parameters\.keys: lm_head matches no layer of this model; choose from model\.embed_tokens, .*")
def an_adapter_on_the_head_of_a_tied_model(box: Box) -> list[str]:
    return box.train("--lora-keys", "lm_head")


@fault(CONFIG, r"trainable_modules: model\.embed_tokens is also adapted by lora_parameters\.keys; .*")
def a_layer_trained_two_ways(box: Box) -> list[str]:
    return box.train("--lora-keys", "embed_tokens", "--trainable-modules", "embed_tokens")


@fault(CONFIG, r"--neftune-alpha must be at least 0, got -5")
def negative_noise(box: Box) -> list[str]:
    return box.train("--neftune-alpha", "-5")


@fault(CONFIG, r"--learning-rate must be .*, got -0\.1")
def a_negative_learning_rate(box: Box) -> list[str]:
    return box.train("--learning-rate", "-0.1")


@fault(CONFIG, r"--learning-rate.*nan.*")
def a_learning_rate_that_is_no_number(box: Box) -> list[str]:
    return box.train("--learning-rate", "nan")


@fault(CONFIG, r"run\.yaml:1:?.*learning_rate.*nan.*")
def a_learning_rate_that_is_no_number_in_YAML(box: Box) -> list[str]:
    return with_yaml(box, "learning_rate: .nan\n")


@fault(CONFIG, r"run\.yaml:2: unknown key 'learnin_rate'; did you mean 'learning_rate'\?")
def a_misspelt_key_in_YAML(box: Box) -> list[str]:
    return with_yaml(box, "iters: 3\nlearnin_rate: 1e-4\n")


@fault(CONFIG, r"run\.yaml:2: unknown key 'rnak'; did you mean 'rank'\?|.*'lora_parameters\.rank'.*")
def a_misspelt_nested_key_in_YAML(box: Box) -> list[str]:
    return with_yaml(box, "lora_parameters:\n  rnak: 4\n")


@fault(CONFIG, r"unknown flag --learnin-rate; did you mean --learning-rate\?")
def a_misspelt_flag(box: Box) -> list[str]:
    return box.train("--learnin-rate", "1e-4")


@check
def a_misspelt_variable_is_warned_of(box: Box) -> None:
    """Other programs may own variables of such names: no error."""
    box.environment["TEMPER_LEARNIN_RATE"] = "1e-4"
    result = box.run(box.train())
    assert result.returncode == OK, result.stderr
    warning = "warning: the variable TEMPER_LEARNIN_RATE means nothing; did you mean TEMPER_LEARNING_RATE?"
    assert warning in result.stderr.splitlines(), result.stderr


@fault(CONFIG, r"TEMPER_ITERS.*whole number.*many.*")
def a_variable_of_the_wrong_type(box: Box) -> list[str]:
    box.environment["TEMPER_ITERS"] = "many"
    return ["train", "--model", "m", "--data", "d"]


@fault(CONFIG, r"run\.yaml:1: .*iters.*whole number.*")
def a_wrong_type_in_YAML(box: Box) -> list[str]:
    return with_yaml(box, "iters: many\n")


@fault(CONFIG, r"run\.yaml:3: not valid YAML: .*")
def a_file_that_is_no_YAML(box: Box) -> list[str]:
    return with_yaml(box, "iters: 3\nmodel: [m\n")


@fault(CONFIG, r"run\.yaml.*: expected keys and values, got .*")
def a_YAML_file_without_keys(box: Box) -> list[str]:
    return with_yaml(box, "- iters\n- model\n")


@fault(CONFIG, r"run\.yaml:2.*: 'iters' is given twice, first at run\.yaml:1.*")
def a_key_given_twice(box: Box) -> list[str]:
    return with_yaml(box, "iters: 3\niters: 4\n")


@fault(IO, r"cannot read nowhere\.yaml: .*")
def a_configuration_that_does_not_exist(box: Box) -> list[str]:
    return box.train("--config", "nowhere.yaml")


@fault(IO, r"cannot read d: .*directory.*")
def a_directory_instead_of_a_configuration(box: Box) -> list[str]:
    return box.train("--config", "d")


@fault(CONFIG, r"unknown verb 'trian'; did you mean 'train'\?")
def an_unknown_verb(box: Box) -> list[str]:
    return ["trian", "--model", "m"]


@fault(CONFIG, r"--model needs a value.*")
def a_flag_without_its_value(box: Box) -> list[str]:
    return ["train", "--data", "d", "--model"]


@fault(CONFIG, r"unexpected argument 'm'; see .*")
def an_argument_without_a_flag(box: Box) -> list[str]:
    return ["train", "m"]


@fault(CONFIG, r"no model: give --model DIR, or .*")
def no_model(box: Box) -> list[str]:
    return ["train", "--data", "d"]


@fault(CONFIG, r"--valid-fraction must be .*, got 1\.5")
def a_valid_fraction_of_1_5(box: Box) -> list[str]:
    return box.train("--valid-fraction", "1.5")


@fault(CONFIG, r"--batch-size must be at least 1, got 0")
def a_batch_of_nothing(box: Box) -> list[str]:
    return box.train("--batch-size", "0")


@fault(CONFIG, r"num_layers.*99.*1.*")
def more_layers_than_the_model_has(box: Box) -> list[str]:
    return box.train("--num-layers", "99")


@fault(CONFIG, r".*self_attn\.qq_proj.*self_attn\.q_proj.*")
def LoRA_keys_that_match_nothing(box: Box) -> list[str]:
    return box.train("--lora-keys", "self_attn.qq_proj")


@fault(CONFIG, r"--iters and --epochs exclude each other: give one of them")
def iters_and_epochs(box: Box) -> list[str]:
    return box.train("--epochs", "1")


@fault(CONFIG, r"--optimizer must be one of .*, got 'lino'; did you mean 'lion'\?")
def an_unknown_optimizer(box: Box) -> list[str]:
    return box.train("--optimizer", "lino")


@fault(CONFIG, r"parameter_groups: '\*\.lora_c' fits no trained parameter, such as model\.layers.*")
def a_parameter_group_that_fits_nothing(box: Box) -> list[str]:
    return box.train("--parameter-groups", "{match: '*.lora_c'}")


@fault(CONFIG, r"parameter_groups: '\*' sets a weight_decay, which adam does not have; use adamw")
def a_weight_decay_for_adam(box: Box) -> list[str]:
    return box.train("--parameter-groups", "{match: '*', weight_decay: 0.1}")


@fault(CONFIG, r".*lr_schedule.*cosin.*")
def an_unknown_schedule(box: Box) -> list[str]:
    return with_yaml(box, "lr_schedule: cosin\n")


@fault(CONFIG, r"lr_schedule\.points: step 5 comes after step 9; steps must rise")
def a_schedule_whose_points_go_back(box: Box) -> list[str]:
    return with_yaml(box, "lr_schedule:\n  name: points\n  points: [[9, 1e-4], [5, 0]]\n")


@fault(CONFIG, r"hf_dataset: '/some/thing' is neither a folder or file here nor a name on the hub")
def a_data_set_that_is_no_name(box: Box) -> list[str]:
    return with_yaml(box, "hf_dataset:\n  path: /some/thing\n")


@fault(IO, r"someone/something: not in .*, or not all of it, and HF_HUB_OFFLINE is set; .*")
def a_data_set_that_is_not_here(box: Box) -> list[str]:
    return with_yaml(box, "hf_dataset:\n  path: someone/something\n")


@fault(CONFIG, r"--model is missing: .*")
def generation_without_a_model(box: Box) -> list[str]:
    return ["generate", "--prompt", "Aloha"]


@fault(CONFIG, r"--temperature.*-1.*")
def a_negative_temperature(box: Box) -> list[str]:
    return ["generate", "--model", "m", "--prompt", "Aloha", "--temperature", "-1"]


@fault(CONFIG, r"--shape nowhere: neither a config\.json nor a name in bench/shapes")
def a_bench_of_an_unknown_shape(box: Box) -> list[str]:
    return ["bench", "step", "--shape", "nowhere"]
