//! What Hugging Face's renderer gives to templates beyond Jinja: Python's string methods,
//! `raise_exception`, `tojson` without HTML escapes, and `None`, `True`, `False` in print.
//!
//! It must never know messages.
//!
//! Start reading at [`environment`].

use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};
use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::{Formatter, PrettyFormatter};

/// The message that a template gave to `raise_exception`.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Raised(pub(crate) String);

/// Writes JSON as Python's `json.dumps` does: a space after each comma and colon.
struct Spaced;

/// The widest indentation that `tojson` takes.
const MAX_INDENT: usize = 16;

/// An environment as Hugging Face's: `trim_blocks`, `lstrip_blocks`, loop controls.
pub(crate) fn environment(fuel: u64) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_fuel(Some(fuel));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(print);
    environment.add_function("raise_exception", raise_exception);
    environment.add_filter("tojson", tojson);
    Ok(environment)
}

fn raise_exception(message: String) -> Result<Value, Error> {
    let error = Error::new(ErrorKind::InvalidOperation, message.clone());
    Err(error.with_source(Raised(message)))
}

fn print(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    let word = match value.kind() {
        ValueKind::None => "None",
        ValueKind::Bool if value.is_true() => "True",
        ValueKind::Bool => "False",
        _ => return minijinja::escape_formatter(out, state, value),
    };
    out.write_str(word).map_err(Error::from)
}

/// `json.dumps(value, ensure_ascii=False, indent=indent)`.
fn tojson(value: &Value, indent: Option<usize>, options: Kwargs) -> Result<Value, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<usize>>("indent")?,
    };
    // Python's default already; templates name it all the same.
    let ensure_ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    options.assert_all_used()?;
    let refuse = |message| Err(Error::new(ErrorKind::InvalidOperation, message));
    if ensure_ascii {
        return refuse("tojson with ensure_ascii=true is not supported");
    }
    let json = match indent {
        None => write_json(value, Spaced),
        Some(n) if n <= MAX_INDENT => {
            write_json(value, PrettyFormatter::with_indent(&b" ".repeat(n)))
        }
        Some(_) => return refuse("tojson takes an indent of at most 16"),
    };
    json.map(Value::from).map_err(|e| {
        Error::new(ErrorKind::BadSerialization, "cannot be written as JSON").with_source(e)
    })
}

fn write_json(value: &Value, formatter: impl Formatter) -> Result<String, serde_json::Error> {
    let mut bytes = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut bytes, formatter))?;
    Ok(String::from_utf8(bytes).expect("JSON is UTF-8: this is a bug"))
}

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}
