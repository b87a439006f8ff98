//! The tokenizer's part of `temper_bridge.h`.

use std::collections::HashMap;
use std::os::raw::{c_char, c_int};

use tokenizers::Tokenizer;

use crate::added;
use crate::base::{borrow, borrow_str, from_raw, guard, guard_or, into_raw, TemperText};
use crate::sentencepiece;

pub struct TemperTokenizer {
    tokenizer: Tokenizer,
    vocab_size: usize,
    /// Whether each added token is special, by id.
    added: HashMap<u32, bool>,
}

impl TemperTokenizer {
    fn new(tokenizer: Tokenizer) -> Box<Self> {
        let mut this = Box::new(TemperTokenizer {
            tokenizer,
            vocab_size: 0,
            added: HashMap::new(),
        });
        this.refresh();
        this
    }

    fn refresh(&mut self) {
        let largest = self.tokenizer.get_vocab(true).into_values().max();
        self.vocab_size = largest.map_or(0, |id| id as usize + 1);
        let added = self.tokenizer.get_added_tokens_decoder();
        self.added = added.into_iter().map(|(id, token)| (id, token.special)).collect();
    }
}

#[repr(C)]
pub struct TemperToken {
    id: u32,
    begin: u32,
    end: u32,
}

#[repr(C)]
pub struct TemperEncoding {
    tokens: *mut TemperToken,
    size: usize,
}

/// # Safety
/// `encoding` was made by this library and not freed before.
#[no_mangle]
pub unsafe extern "C" fn temper_encoding_free(encoding: TemperEncoding) {
    from_raw(encoding.tokens, encoding.size);
}

/// # Safety
/// See `temper_bridge.h`.
#[no_mangle]
pub unsafe extern "C" fn temper_tokenizer_from_json(
    json: *const c_char,
    size: usize,
    out: *mut *mut TemperTokenizer,
    error: *mut TemperText,
) -> c_int {
    guard(error, || {
        let tokenizer = added::parse(borrow_str(json, size)?)?;
        out.write(Box::into_raw(TemperTokenizer::new(tokenizer)));
        Ok(())
    })
}

/// # Safety
/// See `temper_bridge.h`.
#[no_mangle]
pub unsafe extern "C" fn temper_tokenizer_from_sentencepiece(
    bytes: *const c_char,
    size: usize,
    prefix_space: c_int,
    out: *mut *mut TemperTokenizer,
    error: *mut TemperText,
) -> c_int {
    guard(error, || {
        let tokenizer = sentencepiece::convert(borrow(bytes as *const u8, size), prefix_space)?;
        out.write(Box::into_raw(TemperTokenizer::new(tokenizer)));
        Ok(())
    })
}

/// # Safety
/// See `temper_bridge.h`.
#[no_mangle]
pub unsafe extern "C" fn temper_tokenizer_free(tokenizer: *mut TemperTokenizer) {
    if !tokenizer.is_null() {
        drop(Box::from_raw(tokenizer));
    }
}

/// # Safety
/// See `temper_bridge.h`.
#[no_mangle]
pub unsafe extern "C" fn temper_tokenizer_to_json(
    tokenizer: *const TemperTokenizer,
    out: *mut TemperText,
    error: *mut TemperText,
) -> c_int {
    guard(error, || {
        out.write((*tokenizer).tokenizer.to_string(true)?.into());
        Ok(())
    })
}

/// # Safety
/// See `temper_bridge.h`.
#[no_mangle]
pub unsafe extern "C" fn temper_tokenizer_add_tokens(
    tokenizer: *mut TemperTokenizer,
    json: *const c_char,
    size: usize,
    error: *mut TemperText,
) -> c_int {
    guard(error, || {
        let this = &mut *tokenizer;
        added::add_tokens(&mut this.tokenizer, borrow_str(json, size)?)?;
        this.refresh();
        Ok(())
    })
}

/// # Safety
/// See `temper_bridge.h`.
#[no_mangle]
pub unsafe extern "C" fn temper_tokenizer_set_bos_eos(
    tokenizer: *mut TemperTokenizer,
    bos: *const c_char,
    bos_size: usize,
    eos: *const c_char,
    eos_size: usize,
    error: *mut TemperText,
) -> c_int {
    guard(error, || {
        added::set_bos_eos(
            &mut (*tokenizer).tokenizer,
            borrow_str(bos, bos_size)?,
            borrow_str(eos, eos_size)?,
        )
    })
}

/// # Safety
/// See `temper_bridge.h`.
#[no_mangle]
pub unsafe extern "C" fn temper_tokenizer_encode(
    tokenizer: *const TemperTokenizer,
    text: *const c_char,
    size: usize,
    add_special_tokens: c_int,
    out: *mut TemperEncoding,
    error: *mut TemperText,
) -> c_int {
    guard(error, || {
        if u32::try_from(size).is_err() {
            return Err(format!("a text of {size} bytes is too long to tokenize at once").into());
        }
        let encoding = (*tokenizer)
            .tokenizer
            .encode(borrow_str(text, size)?, add_special_tokens != 0)?;
        let tokens = encoding
            .get_ids()
            .iter()
            .zip(encoding.get_offsets())
            .map(|(&id, &(begin, end))| TemperToken {
                id,
                begin: begin as u32,
                end: end as u32,
            })
            .collect();
        let (tokens, size) = into_raw(tokens);
        out.write(TemperEncoding { tokens, size });
        Ok(())
    })
}

/// # Safety
/// See `temper_bridge.h`.
#[no_mangle]
pub unsafe extern "C" fn temper_tokenizer_decode(
    tokenizer: *const TemperTokenizer,
    ids: *const u32,
    size: usize,
    skip_special_tokens: c_int,
    out: *mut TemperText,
    error: *mut TemperText,
) -> c_int {
    guard(error, || {
        let text = (*tokenizer)
            .tokenizer
            .decode(borrow(ids, size), skip_special_tokens != 0)?;
        out.write(text.into());
        Ok(())
    })
}

/// # Safety
/// See `temper_bridge.h`.
#[no_mangle]
pub unsafe extern "C" fn temper_tokenizer_token_to_id(
    tokenizer: *const TemperTokenizer,
    token: *const c_char,
    size: usize,
) -> i64 {
    guard_or(-1, || {
        borrow_str(token, size)
            .ok()
            .and_then(|token| (*tokenizer).tokenizer.token_to_id(token))
            .map_or(-1, i64::from)
    })
}

/// # Safety
/// See `temper_bridge.h`.
#[no_mangle]
pub unsafe extern "C" fn temper_tokenizer_id_to_token(
    tokenizer: *const TemperTokenizer,
    id: u32,
    out: *mut TemperText,
    error: *mut TemperText,
) -> c_int {
    guard(error, || {
        let token = (*tokenizer).tokenizer.id_to_token(id).ok_or("no such id")?;
        out.write(token.into());
        Ok(())
    })
}

/// # Safety
/// See `temper_bridge.h`.
#[no_mangle]
pub unsafe extern "C" fn temper_tokenizer_added_kind(tokenizer: *const TemperTokenizer, id: u32) -> c_int {
    (*tokenizer)
        .added
        .get(&id)
        .map_or(0, |&special| 1 + c_int::from(special))
}

/// # Safety
/// See `temper_bridge.h`.
#[no_mangle]
pub unsafe extern "C" fn temper_tokenizer_vocab_size(tokenizer: *const TemperTokenizer) -> usize {
    (*tokenizer).vocab_size
}
