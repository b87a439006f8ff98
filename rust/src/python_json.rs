//! `tojson` as transformers defines it: Python's json.dumps, without HTML escapes.

use std::fmt::Write;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

struct Style {
    ascii: bool,
    sort_keys: bool,
    indent: Option<String>,
    item: String,
    key: String,
}

impl Style {
    fn new(ascii: Option<bool>, kwargs: &Kwargs) -> Result<Style, Error> {
        let indent = match kwargs.get::<Option<Value>>("indent")? {
            Some(value) if value.is_integer() => Some(" ".repeat(value.as_usize().unwrap_or(0))),
            Some(value) => value.as_str().map(str::to_string),
            None => None,
        };
        let separators = kwargs.get::<Option<Vec<String>>>("separators")?;
        let (item, key) = match separators.as_deref() {
            Some([item, key]) => (item.clone(), key.clone()),
            _ if indent.is_some() => (",".to_string(), ": ".to_string()),
            _ => (", ".to_string(), ": ".to_string()),
        };
        let ascii_named = kwargs.get::<Option<bool>>("ensure_ascii")?;
        let style = Style {
            ascii: ascii_named.or(ascii).unwrap_or(false),
            sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
            indent,
            item,
            key,
        };
        kwargs.assert_all_used()?;
        Ok(style)
    }

    fn string(&self, out: &mut String, text: &str) {
        out.push('"');
        for letter in text.chars() {
            match letter {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if (c as u32) < 0x20 || (self.ascii && (c as u32) > 0x7e) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }

    fn new_line(&self, out: &mut String, depth: usize) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            for _ in 0..depth {
                out.push_str(indent);
            }
        }
    }

    fn items<T>(
        &self,
        out: &mut String,
        brackets: [char; 2],
        depth: usize,
        items: Vec<T>,
        write: impl Fn(&mut String, &T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push(brackets[0]);
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                out.push_str(&self.item);
            }
            self.new_line(out, depth + 1);
            write(out, item)?;
        }
        if !items.is_empty() {
            self.new_line(out, depth);
        }
        out.push(brackets[1]);
        Ok(())
    }

    fn map(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if self.sort_keys {
            keys.sort();
        }
        self.items(out, ['{', '}'], depth, keys, |out, key| {
            let mut name = String::new();
            self.value(&mut name, key, depth)?;
            if key.kind() == ValueKind::String {
                out.push_str(&name);
            } else {
                self.string(out, &name);
            }
            out.push_str(&self.key);
            self.value(out, &value.get_item(key)?, depth + 1)
        })
    }

    fn value(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => out.push_str(&value.to_string()),
            ValueKind::Number => out.push_str(&float(f64::try_from(value.clone())?)),
            ValueKind::String => self.string(out, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.collect();
                self.items(out, ['[', ']'], depth, items, |out, item| {
                    self.value(out, item, depth + 1)
                })?;
            }
            ValueKind::Map => self.map(out, value, depth)?,
            kind => {
                let message = format!("tojson was given something that is not JSON: {kind}");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        }
        Ok(())
    }
}

/// Python's repr(float): the shortest digits that read back the same, an exponent below 1e-4 and from 1e16.
fn float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return (if value > 0.0 { "Infinity" } else { "-Infinity" }).into();
    }
    let size = value.abs();
    if size == 0.0 || (1e-4..1e16).contains(&size) {
        return format!("{value:?}");
    }
    let text = format!("{value:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(("+", exponent), |e| ("-", e));
    format!("{digits}e{sign}{exponent:0>2}")
}

pub fn tojson(value: &Value, ascii: Option<bool>, kwargs: Kwargs) -> Result<Value, Error> {
    let style = Style::new(ascii, &kwargs)?;
    let mut out = String::new();
    style.value(&mut out, value, 0)?;
    Ok(Value::from_safe_string(out))
}
