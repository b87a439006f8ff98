//! Tokenizers and chat templates for Temper, behind the C interface of `temper_bridge.h`.

mod added;
mod base;
mod clock;
mod generation;
mod protobuf;
mod python_json;
mod sentencepiece;
mod template;
mod template_abi;
mod tokenizer_abi;
