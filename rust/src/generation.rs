//! `{% generation %}`: the template's own marks around what the assistant wrote.
//! The tag becomes a filter block whose filter puts sentinels around its text; they are taken out again and
//! leave byte ranges.

pub const FILTER: &str = "__generation";

#[derive(Debug, PartialEq)]
pub struct Span {
    pub begin: usize,
    pub end: usize,
}

/// A sentinel that occurs in none of `texts`.
pub fn sentinel(texts: &[&str]) -> String {
    (0u32..)
        .map(|n| format!("\u{f0000}{n}\u{f0001}"))
        .find(|mark| texts.iter().all(|t| !t.contains(mark)))
        .unwrap()
}

pub fn opening(mark: &str) -> String {
    format!("{mark}(")
}

pub fn closing(mark: &str) -> String {
    format!("{mark})")
}

/// The size of `source`'s first tag, expression or comment, up to and with `close`; quoted text can't end it.
fn size_until(source: &str, close: &str) -> usize {
    let mut quote = None;
    let mut escaped = false;
    for (at, letter) in source.char_indices().skip(2) {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if letter == '\\' => escaped = true,
            Some(open) if letter == open => quote = None,
            Some(_) => {}
            None if source[at..].starts_with(close) => return at + close.len(),
            None if close != "#}" && (letter == '\'' || letter == '"') => quote = Some(letter),
            None => {}
        }
    }
    source.len()
}

/// The filter's tag for a generation tag, whitespace control kept.
fn translate_tag(tag: &str) -> Option<String> {
    let inner = tag
        .strip_prefix("{%")?
        .strip_suffix("%}")?
        .trim_matches(['-', '+'])
        .trim();
    match inner {
        "generation" => Some(tag.replacen(inner, &format!("filter {FILTER}"), 1)),
        "endgeneration" => Some(tag.replacen(inner, "endfilter", 1)),
        _ => None,
    }
}

/// The source with each generation tag as a filter block's, and whether there was one.
pub fn translate(source: &str) -> (String, bool) {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    let mut found = false;
    while let Some(start) = ["{{", "{%", "{#"].iter().filter_map(|open| rest.find(open)).min() {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let close = match &rest[..2] {
            "{{" => "}}",
            "{%" => "%}",
            _ => "#}",
        };
        let (tag, after) = rest.split_at(size_until(rest, close));
        let translated = translate_tag(tag);
        found |= translated.is_some();
        out.push_str(translated.as_deref().unwrap_or(tag));
        rest = after;
    }
    out.push_str(rest);
    (out, found)
}

/// The text without sentinels, and where they were.
pub fn extract(text: &str, mark: &str) -> (String, Vec<Span>) {
    let mut out = String::with_capacity(text.len());
    let mut spans = Vec::new();
    let mut open = Vec::new();
    let mut pieces = text.split(mark);
    out.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let (bracket, words) = piece.split_at(1);
        if bracket == "(" {
            open.push(out.len());
        } else if let Some(begin) = open.pop() {
            spans.push(Span { begin, end: out.len() });
        }
        out.push_str(words);
    }
    spans.sort_by_key(|span| span.begin);
    (out, spans)
}
