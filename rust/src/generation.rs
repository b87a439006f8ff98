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

/// The source with each generation tag as a filter block, and whether there was one.
pub fn translate(source: &str) -> (String, bool) {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    let mut found = false;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let Some(size) = tag.find("%}").map(|end| end + 2) else {
            rest = tag;
            break;
        };
        let inner = tag[2..size - 2].trim_matches(['-', '+']).trim();
        let word = match inner {
            "generation" => format!("filter {FILTER}"),
            "endgeneration" => "endfilter".to_string(),
            _ => {
                // Not the whole tag: a string inside it may hold another "{%".
                out.push_str("{%");
                rest = &tag[2..];
                continue;
            }
        };
        found = true;
        out.push_str(&tag[..size].replacen(inner, &word, 1));
        rest = &tag[size..];
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
