//! Tokenizers, chat templates and Parquet for Temper, behind the C interface of `temper_bridge.h`.

mod added;
mod base;
mod clock;
mod confined;
mod generation;
mod parquet_abi;
mod parquet_rows;
mod protobuf;
mod python_json;
mod sentencepiece;
mod template;
mod template_abi;
mod tokenizer_abi;
