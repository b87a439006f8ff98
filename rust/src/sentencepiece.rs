//! A SentencePiece model as a Hugging Face tokenizer.
//! Source: sentencepiece_model.proto and normalizer.cc of https://github.com/google/sentencepiece.

use std::collections::HashMap;
use std::str::FromStr;

use serde_json::{json, Value as Json};
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Precompiled, Prepend, Replace, Sequence, Strip};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::{AddedToken, NormalizerWrapper, Tokenizer};

use crate::base::Outcome;
use crate::protobuf::Reader;

const SPACE: &str = "\u{2581}";

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

struct Piece {
    text: String,
    score: f32,
    kind: Kind,
}

/// ModelProto, with the proto's defaults for what is not written.
struct Model {
    pieces: Vec<Piece>,
    model_type: i64,
    byte_fallback: bool,
    charsmap: Vec<u8>,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    escape_whitespaces: bool,
}

fn read_piece(message: &[u8]) -> Outcome<Piece> {
    let mut piece = Piece {
        text: String::new(),
        score: 0.0,
        kind: Kind::Normal,
    };
    let mut reader = Reader::new(message);
    while let Some((number, field)) = reader.next()? {
        match number {
            1 => piece.text = field.text()?,
            2 => piece.score = field.float()?,
            3 => {
                piece.kind = match field.integer()? {
                    2 => Kind::Unknown,
                    3 => Kind::Control,
                    4 => Kind::UserDefined,
                    5 => Kind::Unused,
                    6 => Kind::Byte,
                    _ => Kind::Normal,
                }
            }
            _ => {}
        }
    }
    Ok(piece)
}

fn read_model(bytes: &[u8]) -> Outcome<Model> {
    let mut model = Model {
        pieces: Vec::new(),
        model_type: 1,
        byte_fallback: false,
        charsmap: Vec::new(),
        add_dummy_prefix: true,
        remove_extra_whitespaces: true,
        escape_whitespaces: true,
    };
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next()? {
        match number {
            1 => model.pieces.push(read_piece(field.bytes()?)?),
            2 => read_trainer_spec(field.bytes()?, &mut model)?,
            3 => read_normalizer_spec(field.bytes()?, &mut model)?,
            _ => {}
        }
    }
    if model.pieces.is_empty() {
        return Err("it holds no pieces".into());
    }
    Ok(model)
}

fn read_trainer_spec(message: &[u8], model: &mut Model) -> Outcome<()> {
    let mut reader = Reader::new(message);
    while let Some((number, field)) = reader.next()? {
        match number {
            3 => model.model_type = field.integer()?,
            35 => model.byte_fallback = field.boolean()?,
            _ => {}
        }
    }
    Ok(())
}

fn read_normalizer_spec(message: &[u8], model: &mut Model) -> Outcome<()> {
    let mut reader = Reader::new(message);
    while let Some((number, field)) = reader.next()? {
        match number {
            2 => model.charsmap = field.bytes()?.to_vec(),
            3 => model.add_dummy_prefix = field.boolean()?,
            4 => model.remove_extra_whitespaces = field.boolean()?,
            5 => model.escape_whitespaces = field.boolean()?,
            _ => {}
        }
    }
    Ok(())
}

impl Piece {
    /// User-defined pieces are matched in the raw text, where a space is not yet escaped; those that hold an
    /// escaped space therefore stay ordinary pieces.
    fn is_added(&self) -> bool {
        match self.kind {
            Kind::Control | Kind::Unknown => true,
            Kind::UserDefined => !self.text.contains(SPACE),
            _ => false,
        }
    }

    fn can_merge(&self) -> bool {
        matches!(self.kind, Kind::Normal | Kind::UserDefined | Kind::Unused)
    }
}

/// Every way to write a piece as two pieces, best score first: merging in this order is SentencePiece's BPE.
fn merges(pieces: &[Piece]) -> Vec<[&str; 2]> {
    let ids: HashMap<&str, usize> = pieces
        .iter()
        .enumerate()
        .filter(|(_, p)| p.can_merge())
        .map(|(id, p)| (p.text.as_str(), id))
        .collect();
    let mut found = Vec::new();
    for piece in pieces
        .iter()
        .filter(|p| matches!(p.kind, Kind::Normal | Kind::UserDefined))
    {
        let mut ways: Vec<(usize, usize, [&str; 2])> = Vec::new();
        for (middle, _) in piece.text.char_indices().skip(1) {
            let (left, right) = piece.text.split_at(middle);
            if let (Some(&l), Some(&r)) = (ids.get(left), ids.get(right)) {
                ways.push((l, r, [left, right]));
            }
        }
        ways.sort_by_key(|way| (way.0, way.1));
        found.extend(ways.into_iter().map(|way| (piece.score, way.2)));
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found.into_iter().map(|(_, pair)| pair).collect()
}

fn bpe_json(model: &Model, unknown: Option<&Piece>) -> Json {
    let vocab: serde_json::Map<String, Json> = model
        .pieces
        .iter()
        .enumerate()
        .map(|(id, p)| (p.text.clone(), json!(id)))
        .collect();
    json!({
        "type": "BPE", "dropout": null, "unk_token": unknown.map(|p| p.text.clone()),
        "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
        "byte_fallback": model.byte_fallback, "ignore_merges": false,
        "vocab": vocab, "merges": merges(&model.pieces),
    })
}

fn unigram_json(model: &Model, unknown: Option<usize>) -> Json {
    let normal = model.pieces.iter().filter(|p| p.kind == Kind::Normal).map(|p| p.score);
    let lowest = normal.fold(f32::INFINITY, f32::min).min(0.0);
    // Only normal and user-defined pieces may match text; the others keep a score that loses.
    let score = |p: &Piece| match p.kind {
        Kind::Normal | Kind::UserDefined => p.score,
        _ => lowest,
    };
    let vocab: Vec<Json> = model.pieces.iter().map(|p| json!([p.text, score(p)])).collect();
    json!({"type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": model.byte_fallback})
}

fn normalizer(model: &Model, prepend: bool) -> Outcome<Sequence> {
    let mut steps: Vec<NormalizerWrapper> = Vec::new();
    if !model.charsmap.is_empty() {
        let charsmap = Precompiled::from(&model.charsmap).map_err(|e| format!("its character map is broken: {e:?}"))?;
        steps.push(charsmap.into());
    }
    if model.remove_extra_whitespaces {
        steps.push(Strip::new(true, true).into());
        steps.push(Replace::new(ReplacePattern::Regex(" {2,}".into()), " ")?.into());
    }
    if prepend {
        steps.push(Prepend::new(SPACE.into()).into());
    }
    if model.escape_whitespaces {
        steps.push(Replace::new(" ", SPACE)?.into());
    }
    Ok(Sequence::new(steps))
}

fn decoder(prefixed: bool) -> Json {
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefixed {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": steps})
}

/// `prefix_space` as in `temper_tokenizer_from_sentencepiece`.
pub fn convert(bytes: &[u8], prefix_space: i32) -> Outcome<Tokenizer> {
    let model = read_model(bytes)?;
    let mut prefix_space = if prefix_space < 0 {
        i32::from(model.add_dummy_prefix)
    } else {
        prefix_space
    };
    if prefix_space == 1 && model.remove_extra_whitespaces {
        // Stripped text no longer starts at its first byte, by which Metaspace knows the first piece.
        prefix_space = 2;
    }
    let unknown = model.pieces.iter().position(|p| p.kind == Kind::Unknown);
    let core = match model.model_type {
        1 => unigram_json(&model, unknown),
        2 => bpe_json(&model, unknown.map(|id| &model.pieces[id])),
        kind => return Err(format!("its model type is {kind}; only Unigram (1) and BPE (2) are supported").into()),
    };
    let description = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": decoder(prefix_space != 0), "model": core,
    });
    let mut tokenizer = Tokenizer::from_str(&description.to_string())?;
    tokenizer.with_normalizer(Some(normalizer(&model, prefix_space == 2)?))?;
    if prefix_space == 1 {
        tokenizer.with_pre_tokenizer(Some(Metaspace::new('\u{2581}', PrependScheme::First, false)));
    }
    let added: Vec<AddedToken> = model
        .pieces
        .iter()
        .filter(|p| p.is_added())
        .map(|p| AddedToken::from(p.text.clone(), p.kind != Kind::UserDefined).normalized(false))
        .collect();
    tokenizer.add_tokens(added)?;
    Ok(tokenizer)
}
