//! One call as it is written: a JSON object with a name and arguments, read a piece at a time.
//!
//! It must never know what stands around the object.
//!
//! Start reading at [`CallScanner::push`].

use serde_json::Value;

/// Reads one call.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallScanner {
    raw: String,
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    /// Where the string or value that is being read begins.
    string_start: usize,
    value_start: Option<usize>,
    expects: Expects,
    key: String,
    pub(crate) name: Option<String>,
    arguments_start: Option<usize>,
    arguments_end: Option<usize>,
}

/// What comes next in the outermost object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Expects {
    #[default]
    Key,
    Value,
}

/// What became of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scan {
    /// It goes on; all was taken.
    Open,
    /// It is complete, `taken` bytes of the push were its own.
    Done { taken: usize },
    /// It is no object.
    Broken,
}

impl CallScanner {
    /// Takes more text.
    pub(crate) fn push(&mut self, text: &str) -> Scan {
        for (i, byte) in text.bytes().enumerate() {
            let at = self.raw.len() + i;
            if self.depth == 0 && byte != b'{' {
                self.raw.push_str(&text[..i]);
                return Scan::Broken;
            }
            // Strings are cut at quotes, which are characters of their own, so `raw` is complete before them.
            let before = |start: usize| format!("{}{}", &self.raw, &text[..i])[start..].to_owned();
            if self.in_string {
                match byte {
                    _ if self.is_escaped => self.is_escaped = false,
                    b'\\' => self.is_escaped = true,
                    b'"' => {
                        self.in_string = false;
                        if self.depth == 1 && self.expects == Expects::Key {
                            self.key = before(self.string_start);
                        }
                    }
                    _ => {}
                }
                continue;
            }
            let begins_value = self.depth == 1 && self.expects == Expects::Value;
            if begins_value
                && self.value_start.is_none()
                && !byte.is_ascii_whitespace()
                && byte != b':'
            {
                self.value_start = Some(at);
                if is_arguments(&self.key) {
                    self.arguments_start = Some(at);
                }
            }
            match byte {
                b'"' => (self.in_string, self.string_start) = (true, at + 1),
                b'{' | b'[' => self.depth += 1,
                b':' if self.depth == 1 => self.expects = Expects::Value,
                b',' if self.depth == 1 => {
                    let value = self.value_start.map(before);
                    self.end_value(value, at);
                }
                b'}' | b']' => {
                    if self.depth == 1 {
                        let value = self.value_start.map(before);
                        self.end_value(value, at);
                    }
                    self.depth -= 1;
                    if self.depth == 1 && is_arguments(&self.key) && self.arguments_end.is_none() {
                        self.arguments_end = self.arguments_start.map(|_| at + 1);
                    }
                    if self.depth == 0 {
                        self.raw.push_str(&text[..=i]);
                        return Scan::Done { taken: i + 1 };
                    }
                }
                _ => {}
            }
        }
        self.raw.push_str(text);
        Scan::Open
    }

    fn end_value(&mut self, value: Option<String>, at: usize) {
        match value {
            Some(text) if self.key == "name" && self.name.is_none() => {
                self.name = serde_json::from_str(text.trim()).ok();
            }
            Some(_) if is_arguments(&self.key) => _ = self.arguments_end.get_or_insert(at),
            _ => {}
        }
        (self.expects, self.value_start) = (Expects::Key, None);
    }

    /// The arguments as far as they are certain, as JSON text. Those that are written as a string of JSON
    /// come when they are complete, without the quotes.
    pub(crate) fn arguments(&self) -> Option<String> {
        let start = self.arguments_start?;
        match (self.raw.as_bytes().get(start)?, self.arguments_end) {
            (b'{', end) => Some(self.raw[start..end.unwrap_or(self.raw.len())].to_owned()),
            (_, Some(end)) => match serde_json::from_str(self.raw[start..end].trim()) {
                Ok(Value::String(text)) => Some(text),
                _ => Some(self.raw[start..end].trim().to_owned()),
            },
            (_, None) => None,
        }
    }

    /// All text that was taken.
    pub(crate) fn raw(&self) -> &str {
        &self.raw
    }
}

fn is_arguments(key: &str) -> bool {
    matches!(key, "arguments" | "parameters")
}
