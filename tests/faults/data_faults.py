"""Data sets that can't be learned from."""

import json
import shutil
from pathlib import Path

from box import CHATS, Box, chat
from fault import CONFIG, DATA, IO, MODEL, OK, check, fault

TRAIN = r"d/train\.jsonl"


@fault(DATA, rf"{TRAIN}: the file is empty; it needs at least one row")
def an_empty_file(box: Box) -> None:
    box.write_data("train.jsonl", "")


@fault(DATA, rf"{TRAIN}: the file is empty; it needs at least one row")
def a_file_of_blank_lines(box: Box) -> None:
    box.write_data("train.jsonl", "\ufeff\n \r\n\n")


@fault(DATA, r"d/valid\.jsonl: the file is empty; it needs at least one row")
def an_empty_validation_file(box: Box) -> None:
    box.write_rows("valid.jsonl", [])


@fault(DATA, rf"{TRAIN}:2: not JSON \(at column \d+\).*--on-bad-row skip.*")
def a_row_that_is_not_JSON(box: Box) -> None:
    row = json.dumps(CHATS[0])
    box.write_data("train.jsonl", f"{row}\n{row[:-4]}\n{row}\n")


@fault(DATA, rf"{TRAIN}:2: a row must be a JSON object, this is a number.*")
def a_row_that_is_no_object(box: Box) -> None:
    box.write_rows("train.jsonl", [CHATS[0], 7])


@fault(DATA, rf"{TRAIN}:2: nested too deeply .*")
def a_row_nested_ten_thousand_deep(box: Box) -> None:
    box.write_data("train.jsonl", json.dumps(CHATS[0]) + '\n{"messages": ' + "[" * 10_000 + "]" * 10_000 + "}\n")


@fault(DATA, rf"{TRAIN}:2: invalid UTF-8.*")
def a_row_that_is_not_UTF_8(box: Box) -> None:
    box.write_data("train.jsonl", json.dumps(CHATS[0]).encode() + b'\n{"text": "\xff\xfe"}\n')


@fault(DATA, rf"{TRAIN}: the file is UTF-16; save it as UTF-8")
def a_file_in_UTF_16(box: Box) -> None:
    box.write_data("train.jsonl", json.dumps(CHATS[0]).encode("utf-16"))


@fault(DATA, r"d/train\.json:\d+: the file ends before the array's closing \].*")
def a_JSON_array_without_its_end(box: Box) -> None:
    box.write_data("train.json", json.dumps(CHATS[:2], indent=1)[:-1])


@fault(DATA, rf"{TRAIN}:2: this row is completion where the others are chat; formats can't be mixed.*")
def mixed_formats(box: Box) -> None:
    box.write_rows("train.jsonl", [CHATS[0], {"prompt": "a", "completion": "b"}])


@fault(DATA, rf"{TRAIN}:1: no known format: the row has 'question', 'answer'; expected 'messages', .*")
def rows_of_no_known_format(box: Box) -> None:
    box.write_rows("train.jsonl", [{"question": "a", "answer": "b"}])


@fault(DATA, rf"{TRAIN}: none of 2 rows can be learned from: no row has an assistant message .*")
def messages_without_an_assistant(box: Box) -> None:
    box.write_rows("train.jsonl", [{"messages": [{"role": "user", "content": "Aloha"}]}] * 2)


@fault(DATA, rf"{TRAIN}: none of 3 rows can be learned from: .*")
def no_supervised_token_in_any_row(box: Box) -> None:
    turns = [{"from": "human", "value": "Aloha"}, {"from": "human", "value": "Anyone there?"}]
    box.write_rows("train.jsonl", [{"conversations": turns}] * 3)


@fault(DATA, rf"{TRAIN}:1: .*'content'.*|{TRAIN}:1: .*content.*")
def a_message_without_content(box: Box) -> None:
    box.write_rows("train.jsonl", [{"messages": [{"role": "user"}, {"role": "assistant", "content": "yes"}]}])


@fault(DATA, rf"{TRAIN}: none of 2 rows can be learned from: max_seq_length 8 cuts off every target "
             r"\(the longest row has \d+ tokens\); raise it")
def all_rows_longer_than_the_maximum(box: Box) -> list[str]:
    box.write_rows("train.jsonl", [chat("Tell me all of it, from the beginning to the very end, please.", "No.")] * 2)
    return box.train("--max-seq-length", "8")


@fault(DATA, rf"{TRAIN}:2: .*more than max_bad_rows 2 .*")
def more_bad_rows_than_allowed(box: Box) -> list[str]:
    box.write_data("train.jsonl", json.dumps(CHATS[0]) + "\n" + "nonsense\n" * 3)
    return box.train("--on-bad-row", "skip", "--max-bad-rows", "2", "--quiet")


@fault(DATA, r"d/train\.csv:2: no known format: the row has 'Aloha', 'Hello'; expected .*first line.*")
def a_csv_without_header_columns(box: Box) -> None:
    box.write_data("train.csv", "Aloha,Hello\nMahalo,Thanks\n")


@fault(DATA, r"d/train\.csv:3: .*")
def a_csv_row_with_too_many_fields(box: Box) -> None:
    box.write_data("train.csv", "prompt,completion\na,b\nc,d,e\n")


@fault(DATA, rf"{TRAIN}:1: .*'nope'.*'messages'.*")
def a_template_of_a_field_that_is_not_there(box: Box) -> list[str]:
    return box.train("--prompt-template", "{nope}", "--completion-template", "{messages}")


@fault(DATA, r"nowhere: .*no such.*")
def a_data_set_that_does_not_exist(box: Box) -> list[str]:
    return box.train("--data", "nowhere")


@fault(DATA, r"empty: .*no train.*")
def a_data_folder_without_a_train_file(box: Box) -> list[str]:
    (box.root / "empty").mkdir()
    return box.train("--data", "empty")


@fault(DATA, r"d: both train\.csv and train\.jsonl are there for one split; keep one, or name the files")
def two_files_for_one_split(box: Box) -> None:
    (box.data / "train.csv").write_text("text\nAloha\n")


PARQUET = Path(__file__).resolve().parents[1] / "golden" / "parquet"


@fault(DATA, r"d/train\.parquet: the file is cut short: its end, which says what is in it, is missing")
def a_parquet_file_that_is_cut_short(box: Box) -> None:
    box.write_data("train.parquet", (PARQUET / "zstd.parquet").read_bytes()[:-100])


@fault(DATA, r"d/train\.parquet: not a Parquet file \(it does not begin with PAR1\)")
def a_parquet_file_that_is_text(box: Box) -> None:
    box.write_data("train.parquet", "{}\n" * 9)


@fault(DATA, r"d/train\.parquet: column .* of row group 0: compressed with LZ4.*; only snappy, gzip and zstd are read: .*")
def a_parquet_file_in_another_compression(box: Box) -> None:
    box.write_data("train.parquet", (PARQUET / "lz4.parquet").read_bytes())


@fault(DATA, r"d/train\.parquet: the file is empty; it needs at least one row")
def a_parquet_file_without_rows(box: Box) -> None:
    box.write_data("train.parquet", (PARQUET / "empty.parquet").read_bytes())


@fault(DATA, r"d/train\.parquet: .*")
def a_parquet_file_whose_length_of_the_footer_is_a_lie(box: Box) -> None:
    content = (PARQUET / "zstd.parquet").read_bytes()
    box.write_data("train.parquet", content[:-8] + b"\xff\xff\xff\x7f" + content[-4:])


@fault(DATA, r"d/train\.parquet:1: the rows from here on can't be read: .*")
def a_parquet_file_with_damaged_pages(box: Box) -> None:
    content = (PARQUET / "zstd.parquet").read_bytes()
    box.write_data("train.parquet", content[:60] + b"Z" * 200 + content[260:])


@fault(DATA, r"d: part 1 \(from 0\) of the 3 of train is missing")
def a_part_of_a_split_that_is_missing(box: Box) -> None:
    box.write_data("train-00000-of-00003.jsonl", "{}")
    box.write_rows("train-00002-of-00003.jsonl", CHATS)


@fault(DATA, r"nothing/\*\.jsonl: no data file .* fits the pattern")
def a_pattern_that_nothing_fits(box: Box) -> list[str]:
    return box.train("--data", "nothing/*.jsonl")


@fault(CONFIG, r"hf_dataset: 'train\[1\]' is no split; write .*")
def a_split_that_is_none(box: Box) -> list[str]:
    return ["train", "--model", "m", "--hf-dataset", '{"path": "d", "train_split": "train[1]"}']


@fault(IO, r"s3://bucket/key: no credentials: set AWS_ACCESS_KEY_ID and .*")
def s3_without_credentials(box: Box) -> list[str]:
    return box.train("--data", "s3://bucket/key")


@fault(IO, r"me/mine: HF_HUB_OFFLINE is set; unset it to upload")
def an_upload_without_a_network(box: Box) -> list[str]:
    return ["upload", "--path", "m", "--to", "me/mine"]


@fault(MODEL, r"d: nothing to upload: no \.safetensors or \.gguf file is there")
def an_upload_of_nothing(box: Box) -> list[str]:
    return ["upload", "--path", "d", "--to", "me/mine"]


@fault(DATA, r"rows\.xlsx: unknown kind of data file; use \.jsonl, .*")
def a_data_file_of_another_kind(box: Box) -> list[str]:
    (box.root / "rows.xlsx").write_bytes(b"PK\x03\x04")
    return box.train("--data", "rows.xlsx")


@fault(IO, rf"cannot read {TRAIN}: Is a directory")
def a_directory_instead_of_a_data_file(box: Box) -> None:
    (box.data / "train.jsonl").unlink()
    (box.data / "train.jsonl").mkdir()


@fault(DATA, r"d: --test needs a test file .*")
def a_test_without_a_test_file(box: Box) -> list[str]:
    return box.train("--test")


@fault(DATA, rf"{TRAIN}: one example can't be split by valid_fraction; add rows")
def one_row_split_in_two(box: Box) -> list[str]:
    box.write_rows("train.jsonl", CHATS[:1])
    return box.train("--valid-fraction", "0.5")


@fault(DATA, r".*24.*64.*|.*64.*24.*")
def a_batch_larger_than_the_data_set_as_mlx_lm_refuses_it(box: Box) -> list[str]:
    return box.train("--compat", "mlx-lm", "--num-layers", "1", "--batch-size", "64")


@fault(DATA, rf"{TRAIN}:1: token id \d+ is beyond the model's vocabulary of 100; .*")
def token_ids_beyond_the_vocabulary(box: Box) -> None:
    box.write_model(box.model, vocabulary=100)


@fault(DATA, rf"{TRAIN}:1: .*It won't do\..*")
def a_template_that_raises(box: Box) -> None:
    box.change_config("tokenizer_config.json", chat_template="{{ raise_exception(\"It won't do.\") }}")


@fault(MODEL, r"m: the chat template does not parse: syntax error: .*")
def a_template_with_a_syntax_error(box: Box) -> None:
    box.change_config("tokenizer_config.json", chat_template="{% for m in messages %}{{ m['content'] }}")


@fault(DATA, r".*no chat template.*prompt and completion.*")
def chats_for_a_model_without_a_template(box: Box) -> None:
    box.change_config("tokenizer_config.json", chat_template=None)


@fault(CONFIG, r"--data-format must be one of .*, got 'chats'.*")
def a_data_format_that_does_not_exist(box: Box) -> list[str]:
    return box.train("--data-format", "chats")


@fault(DATA, r"nowhere: .*no such.*")
def a_check_of_data_that_does_not_exist(box: Box) -> list[str]:
    return ["data", "check", "--model", "m", "--data", "nowhere"]


@fault(CONFIG, r"d/train\.jsonl is there already; pass --overwrite, or another --out")
def prepared_data_over_other_data(box: Box) -> list[str]:
    return ["data", "prepare", "d/train.jsonl", "--out", "d"]


@fault(DATA, rf"{TRAIN}:1: not JSON.*")
def a_bad_row_in_data_to_prepare(box: Box) -> list[str]:
    box.write_data("train.jsonl", "nonsense\n")
    return ["data", "prepare", "d", "--out", "prepared"]


@fault(DATA, r"nowhere\.jsonl: .*no such.*")
def evaluation_on_data_that_does_not_exist(box: Box) -> list[str]:
    return ["eval", "--model", "m", "--data", "nowhere.jsonl"]


def expect_training(box: Box, *flags: str) -> str:
    result = box.run(box.train(*flags))
    assert result.returncode == OK, result.stderr
    box.check_run_folder()
    shutil.rmtree(box.root / "run")
    return result.stderr


@check
def a_byte_order_mark_and_carriage_returns_are_read(box: Box) -> None:
    text = "\r\n".join(json.dumps(row) for row in CHATS)
    box.write_data("train.jsonl", b"\xef\xbb\xbf" + text.encode())
    expect_training(box)
    box.write_data("train.csv", b"\xef\xbb\xbfprompt,completion\r\nAloha,\"Hello,\r\nyou\"\r\n")
    assert "(completion, detected), 1 examples" in expect_training(box)


@check
def a_batch_larger_than_the_data_set_is_the_whole_of_it(box: Box) -> None:
    expect_training(box, "--batch-size", "64")


@check
def bad_rows_within_the_limit_are_skipped_and_said(box: Box) -> None:
    box.write_data("train.jsonl", json.dumps(CHATS[0]) + "\nnonsense\n" + json.dumps(CHATS[1]) + "\n")
    said = expect_training(box, "--on-bad-row", "skip")
    assert "warning: 1 of 3 rows are malformed and left out (d/train.jsonl:2)" in said, said


@check
def a_padded_embedding_is_normal(box: Box) -> None:
    box.write_model(box.model, vocabulary=4096)
    expect_training(box)
