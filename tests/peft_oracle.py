"""PEFT and transformers as an oracle, in an environment that has them (tests/oracle-requirements.txt):

    python peft_oracle.py JOBS.json

Each job of the list has `base`, a model's folder, `logits`, a file to write the logits of TOKENS to, and either
    adapter     the PEFT folder to load; absent: the model alone
or  config      the settings of a LoraConfig: an adapter is made with every tensor of it alive, and saved in `adapter`
"""

import json
import pathlib
import sys
import warnings

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

TOKENS = [[5, 17, 80, 33, 6, 9, 41, 60, 22, 7, 88, 12], [90, 4, 4, 31, 55, 8, 19, 77, 63, 2, 11, 40]]


def load_base(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def enliven(model):
    """No factor is zero, no magnitude is the weight's norm, and what is saved whole has changed."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if not p.requires_grad:
                continue
            if "magnitude" in name:
                p.mul_(1.0 + 0.2 * torch.randn_like(p))
            else:
                p.add_(0.15 * torch.randn_like(p))


def make_adapter(base, folder, config, seed=1):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    model = get_peft_model(load_base(base), LoraConfig(task_type="CAUSAL_LM", **config))
    enliven(model)
    model.save_pretrained(folder)
    return model.eval()


def load_adapter(base, folder):
    """Whatever it does not find a place for, or misses, is an error."""
    from peft import PeftModel

    model = load_base(base)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing.*")
        warnings.filterwarnings("error", message=".*unexpected.*")
        return PeftModel.from_pretrained(model, folder).eval()


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor(TOKENS), use_cache=False).logits.float().contiguous()


def run(job):
    if "config" in job:
        model = make_adapter(job["base"], job["adapter"], job["config"])
    elif "adapter" in job:
        model = load_adapter(job["base"], job["adapter"])
    else:
        model = load_base(job["base"])
    save_file({"logits": logits(model)}, job["logits"])


def main():
    for job in json.loads(pathlib.Path(sys.argv[1]).read_text()):
        run(job)


if __name__ == "__main__":
    main()
