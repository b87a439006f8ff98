//! Added tokens and BOS/EOS, as tokenizer_config.json describes them.

use std::str::FromStr;

use serde_json::Value as Json;
use tokenizers::processors::template::{SpecialToken, Template, TemplateProcessing};
use tokenizers::{AddedToken, Tokenizer};

use crate::base::Outcome;

fn added_token(json: &Json) -> Outcome<AddedToken> {
    let content = json["content"].as_str().ok_or("an added token has no content")?;
    let special = json["special"].as_bool().unwrap_or(false);
    let flag = |key: &str| json[key].as_bool().unwrap_or(false);
    Ok(AddedToken::from(content, special)
        .normalized(json["normalized"].as_bool().unwrap_or(!special))
        .lstrip(flag("lstrip"))
        .rstrip(flag("rstrip"))
        .single_word(flag("single_word")))
}

pub fn add_tokens(tokenizer: &mut Tokenizer, json: &str) -> Outcome<()> {
    let list: Vec<Json> = serde_json::from_str(json)?;
    let tokens = list.iter().map(added_token).collect::<Outcome<Vec<_>>>()?;
    tokenizer.add_tokens(tokens)?;
    Ok(())
}

/// Replaces the post-processor by one that puts `bos` before and `eos` after; either may be empty.
pub fn set_bos_eos(tokenizer: &mut Tokenizer, bos: &str, eos: &str) -> Outcome<()> {
    let mut specials = Vec::new();
    for token in [bos, eos] {
        if !token.is_empty() && !specials.iter().any(|(t, _)| t == token) {
            let id = tokenizer
                .token_to_id(token)
                .ok_or_else(|| format!("the vocabulary has no {token}"))?;
            specials.push((token.to_string(), id));
        }
    }
    let sequence = |text: &str| -> Outcome<Template> {
        let pieces: Vec<String> = [bos, text, eos]
            .iter()
            .filter(|p| !p.is_empty())
            .map(|p| p.to_string())
            .collect();
        Ok(Template::try_from(pieces)?)
    };
    let processor = TemplateProcessing::builder()
        .try_single(sequence("$A")?)?
        .special_tokens(specials.into_iter().map(SpecialToken::from).collect::<Vec<_>>())
        .build()?;
    tokenizer.with_post_processor(Some(processor));
    Ok(())
}

pub fn parse(json: &str) -> Outcome<Tokenizer> {
    let mut tokenizer = Tokenizer::from_str(json)?;
    tokenizer.with_truncation(None)?;
    tokenizer.with_padding(None);
    Ok(tokenizer)
}
