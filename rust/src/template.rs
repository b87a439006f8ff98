//! Chat templates as transformers renders them, on minijinja.
//! Source: transformers' utils/chat_template_utils.py.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::Value as Json;

use crate::base::{Failure, Outcome};
use crate::clock::Clock;
use crate::generation::{self, Span};
use crate::python_json::tojson;

const NAME: &str = "chat template";
const NOW: &str = "__now";
const MARK: &str = "__mark";
/// Instructions a rendering may take: a template that never ends fails instead.
const FUEL: u64 = 20_000_000;
const RECURSION_LIMIT: usize = 120;

pub struct ChatTemplate {
    environment: Environment<'static>,
    marks_generation: bool,
    source: String,
}

pub struct Rendering {
    pub text: String,
    pub spans: Vec<Span>,
}

/// A template's error in one line: its own words, then where.
fn describe(error: Error) -> Failure {
    let mut words = error.detail().map_or_else(
        || error.kind().to_string(),
        |detail| match error.kind() {
            ErrorKind::InvalidOperation => detail.to_string(),
            kind => format!("{kind}: {detail}"),
        },
    );
    if let Some(line) = error.line() {
        words += &format!(" (chat template, line {line})");
    }
    words.into()
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

fn strftime_now(state: &State, format: String) -> Result<Value, Error> {
    let parts: Vec<i64> = match state.lookup(NOW) {
        Some(now) => now.try_iter()?.map(|n| n.as_i64().unwrap_or(-1)).collect(),
        None => Vec::new(),
    };
    let clock = Clock::new(&parts).map_err(|e| Error::new(ErrorKind::InvalidOperation, e.to_string()))?;
    Ok(Value::from(clock.format(&format)))
}

fn is_iterable(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable
    )
}

fn generation_filter(state: &State, text: String) -> Value {
    let mark = state.lookup(MARK).map(|m| m.to_string()).unwrap_or_default();
    Value::from(format!(
        "{}{text}{}",
        generation::opening(&mark),
        generation::closing(&mark)
    ))
}

fn tojson_filter(value: &Value, ascii: Option<bool>, kwargs: Kwargs) -> Result<Value, Error> {
    tojson(value, ascii, kwargs)
}

fn environment() -> Outcome<Environment<'static>> {
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_unknown_method_callback(unknown_method_callback);
    env.set_recursion_limit(RECURSION_LIMIT);
    env.set_fuel(Some(FUEL));
    env.set_debug(false);
    env.add_filter("tojson", tojson_filter);
    env.add_filter(generation::FILTER, generation_filter);
    env.add_test("iterable", is_iterable);
    env.add_function("raise_exception", raise_exception);
    env.add_function("strftime_now", strftime_now);
    Ok(env)
}

impl ChatTemplate {
    pub fn new(source: &str) -> Outcome<Self> {
        let (translated, marks_generation) = generation::translate(source);
        let mut environment = environment()?;
        environment.add_template_owned(NAME, translated).map_err(describe)?;
        Ok(ChatTemplate {
            environment,
            marks_generation,
            source: source.to_string(),
        })
    }

    pub fn marks_generation(&self) -> bool {
        self.marks_generation
    }

    pub fn render(&self, context: &str) -> Outcome<Rendering> {
        let mut variables: Json = serde_json::from_str(context)?;
        let fields = variables.as_object_mut().ok_or("the variables are not a JSON object")?;
        let mark = generation::sentinel(&[context, &self.source]);
        fields.insert(MARK.into(), mark.clone().into());
        let template = self.environment.get_template(NAME).map_err(describe)?;
        let text = template.render(Value::from(Serde(&variables))).map_err(describe)?;
        if !self.marks_generation {
            return Ok(Rendering {
                text,
                spans: Vec::new(),
            });
        }
        let (text, spans) = generation::extract(&text, &mark);
        Ok(Rendering { text, spans })
    }
}
