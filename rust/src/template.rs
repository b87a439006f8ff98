//! Chat templates as transformers renders them, on minijinja.
//! Source: transformers' utils/chat_template_utils.py.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::Value as Json;

use crate::base::{Failure, Outcome};
use crate::clock::Clock;
use crate::confined::{confined, OutOfMemory};
use crate::generation::{self, Span};
use crate::python_json::tojson;

const NAME: &str = "chat template";
const NOW: &str = "__now";
const MARK: &str = "__mark";
/// Instructions a rendering may take: a template that never ends fails instead.
const FUEL: u64 = 20_000_000;
const RECURSION_LIMIT: usize = 120;
/// What compiling or rendering may hold, besides MULTIPLE times its input.
const SPARE_BYTES: usize = 64 << 20;
const MULTIPLE: usize = 8;

/// A template that would need more memory than it may have.
#[derive(Debug)]
pub struct TooLarge;

impl fmt::Display for TooLarge {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(
            out,
            "it takes more than {} MiB of memory: a loop or an operator in it makes a text or a list that has no \
             bound. Put a chat_template.jinja without that into the model's folder",
            SPARE_BYTES >> 20
        )
    }
}

impl std::error::Error for TooLarge {}

struct Compiled {
    environment: Environment<'static>,
    marks_generation: bool,
    source: String,
}

pub struct ChatTemplate {
    compiled: Arc<Compiled>,
    /// Each rendering that goes too far costs what it held, so there is one.
    too_large: AtomicBool,
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

fn bounded<T: Send + 'static>(input: usize, job: impl FnOnce() -> Outcome<T> + Send + 'static) -> Outcome<T> {
    let bytes = SPARE_BYTES.saturating_add(input.saturating_mul(MULTIPLE));
    confined(bytes, job).map_err(|e| if e.is::<OutOfMemory>() { TooLarge.into() } else { e })?
}

fn read_variables(context: &str, mark: &str) -> Outcome<Value> {
    let mut variables: Json = serde_json::from_str(context)?;
    let fields = variables.as_object_mut().ok_or("the variables are not a JSON object")?;
    fields.insert(MARK.into(), mark.into());
    Ok(Value::from(Serde(&variables)))
}

impl Compiled {
    fn new(source: String) -> Outcome<Self> {
        let (translated, marks_generation) = generation::translate(&source);
        let mut environment = environment()?;
        environment.add_template_owned(NAME, translated).map_err(describe)?;
        Ok(Compiled {
            environment,
            marks_generation,
            source,
        })
    }

    fn render(&self, variables: Value, mark: &str) -> Outcome<Rendering> {
        let template = self.environment.get_template(NAME).map_err(describe)?;
        let text = template.render(variables).map_err(describe)?;
        if !self.marks_generation {
            return Ok(Rendering {
                text,
                spans: Vec::new(),
            });
        }
        let (text, spans) = generation::extract(&text, mark);
        Ok(Rendering { text, spans })
    }
}

impl ChatTemplate {
    pub fn new(source: &str) -> Outcome<Self> {
        let source = source.to_string();
        let compiled = bounded(source.len(), move || Compiled::new(source))?;
        Ok(ChatTemplate {
            compiled: Arc::new(compiled),
            too_large: AtomicBool::new(false),
        })
    }

    pub fn marks_generation(&self) -> bool {
        self.compiled.marks_generation
    }

    pub fn render(&self, context: &str) -> Outcome<Rendering> {
        if self.too_large.load(Ordering::Relaxed) {
            return Err(TooLarge.into());
        }
        let mark = generation::sentinel(&[context, &self.compiled.source]);
        let variables = read_variables(context, &mark)?; // kept, so that the job gets nothing back for them
        let (compiled, lent) = (self.compiled.clone(), variables.clone());
        let rendering = bounded(context.len(), move || compiled.render(lent, &mark));
        if rendering.as_ref().is_err_and(|e| e.is::<TooLarge>()) {
            self.too_large.store(true, Ordering::Relaxed);
        }
        rendering
    }
}
