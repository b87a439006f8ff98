"""Runs that can't be continued."""

import json
import shutil

from box import CHATS, Box
from fault import CHECKPOINT, CONFIG, OK, check, fault

STATE = r"run/checkpoints/0000002/state"
RESUME = ["train", "--resume", "run", "--iters", "4"]


def trained(box: Box) -> None:
    result = box.run(box.train("--quiet"))
    assert result.returncode == OK, result.stderr


@fault(CHECKPOINT, r"nowhere: neither a run folder nor one of its checkpoints.*")
def resume_from_a_folder_that_does_not_exist(box: Box) -> list[str]:
    return ["train", "--resume", "nowhere"]


@fault(CHECKPOINT, r"m: neither a run folder nor one of its checkpoints \(no run\.json\)")
def resume_from_a_folder_that_is_no_run(box: Box) -> list[str]:
    return ["train", "--resume", "m"]


@fault(CHECKPOINT, r"run: holds no whole checkpoint to resume from")
def resume_from_a_run_without_checkpoints(box: Box) -> list[str]:
    trained(box)
    shutil.rmtree(box.root / "run" / "checkpoints")
    return RESUME


@fault(CHECKPOINT, r"run: holds no whole checkpoint to resume from")
def resume_from_half_a_checkpoint(box: Box) -> list[str]:
    trained(box)
    (box.root / "run" / "checkpoints" / "0000002" / "state.json").unlink()
    return RESUME


@fault(CHECKPOINT, rf"{STATE}\.safetensors: .* ends at byte \d+ of \d+; the file is damaged .*")
def resume_from_a_truncated_checkpoint(box: Box) -> list[str]:
    trained(box)
    path = box.root / "run" / "checkpoints" / "0000002" / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    return RESUME


@fault(CHECKPOINT, rf"{STATE}\.json: not valid JSON .*")
def resume_from_a_broken_checkpoint(box: Box) -> list[str]:
    trained(box)
    (box.root / "run" / "checkpoints" / "0000002" / "state.json").write_text('{"format_version": 1, "sta')
    return RESUME


@fault(CHECKPOINT, r"run/run\.json: not valid JSON .*")
def resume_from_a_broken_run(box: Box) -> list[str]:
    trained(box)
    (box.root / "run" / "run.json").write_text("{")
    return RESUME


@fault(CHECKPOINT, r"run/run\.json: holds no configuration to go on with")
def resume_from_a_run_without_its_configuration(box: Box) -> list[str]:
    trained(box)
    (box.root / "run" / "run.json").write_text("{}")
    return RESUME


@fault(CHECKPOINT, r"run/checkpoints/0000002: was trained on other data than d holds now; .*")
def resume_after_the_data_changed(box: Box) -> list[str]:
    trained(box)
    box.write_rows("train.jsonl", CHATS[1:])
    return RESUME


@fault(CHECKPOINT, rf"{STATE}\.safetensors: trainable\..* has shape .*, this run needs .*")
def resume_with_another_rank(box: Box) -> list[str]:
    trained(box)
    return [*RESUME, "--lora-rank", "2"]


@fault(CHECKPOINT, rf"{STATE}\.json: the data cursor is damaged; go on from another checkpoint of the run")
def resume_from_a_state_of_the_wrong_type(box: Box) -> list[str]:
    trained(box)
    path = box.root / "run" / "checkpoints" / "0000002" / "state.json"
    state = json.loads(path.read_text())
    state["state"]["cursor"] = "here"
    path.write_text(json.dumps(state))
    return RESUME


@fault(CHECKPOINT, r"run/run\.json: .*iters must be at least 1, got -3")
def resume_from_a_run_whose_configuration_is_impossible(box: Box) -> list[str]:
    trained(box)
    path = box.root / "run" / "run.json"
    run = json.loads(path.read_text())
    run["config"]["iters"] = -3
    path.write_text(json.dumps(run))
    return ["train", "--resume", "run"]


@fault(CONFIG, r"run: holds another run's checkpoints; go on with it \(--resume run\), name another --run-dir, .*")
def a_run_folder_that_another_run_lives_in(box: Box) -> None:
    trained(box)


@check
def a_checkpoint_knows_the_best_evaluation_so_far(box: Box) -> None:
    box.write_rows("valid.jsonl", CHATS[:4])
    result = box.run(box.train("--learning-rate", "1e-3"))
    assert result.returncode == OK, result.stderr
    state = json.loads((box.root / "run" / "checkpoints" / "0000002" / "state.json").read_text())["state"]
    events = [json.loads(line) for line in (box.root / "run" / "events.jsonl").read_text().splitlines()]
    evaluations = {event["loss"]: event["step"] for event in events if event["type"] == "eval"}
    assert set(evaluations.values()) == {0, 2}, evaluations
    assert (state["best_loss"], state["best_step"]) == min(evaluations.items()), state
