//! Splits a source into records with bounded memory.
//!
//! It must never judge what is in a record, and never hold more than one.
//!
//! Start reading at [`Framer::next_record`].

use std::io;

use crate::read::format::Format;
use crate::read::input::Input;

/// A record that is too long is kept up to this many bytes.
pub(crate) const KEPT_OF_TOO_LONG: usize = 4096;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One row as it is in its source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// Where its first byte is in the plain source.
    pub(crate) offset_bytes: u64,
    /// From 1: the line, or for formats that are not lines the number of the record.
    pub(crate) line: u64,
    /// The record, or its beginning when it is too long.
    pub(crate) bytes: Vec<u8>,
    /// The size of the whole record.
    pub(crate) size_bytes: u64,
    /// It is larger than may be.
    pub(crate) too_long: bool,
    /// The file's own syntax is broken here.
    pub(crate) fault: Option<&'static str>,
    /// It stands for the rest of a file that cannot be read, for this reason.
    pub(crate) unreadable: Option<String>,
}

/// The records of one source.
pub(crate) struct Framer {
    pub(crate) input: Input,
    format: Format,
    max_row_bytes: usize,
    /// Lines or records so far.
    count: u64,
    /// Of a JSON array: what comes next.
    array: Array,
    /// Of a mailbox: the line that begins the next mail was taken.
    in_mail: bool,
    /// The last line had no end: it may go on when the file grows.
    pub(crate) open_at: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Array {
    Unknown,
    /// Values one after the other, without an array around them.
    Values,
    /// After `[`.
    First,
    /// After an element.
    Next,
    Closed,
}

impl Framer {
    pub(crate) fn new(input: Input, format: Format, max_row_bytes: usize) -> Framer {
        let array = Array::Unknown;
        Framer { input, format, max_row_bytes, count: 0, array, in_mail: false, open_at: None }
    }

    /// The same source further on, after `count` lines or records.
    pub(crate) fn set_count(&mut self, count: u64) {
        self.count = count;
    }

    /// Lines or records so far.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The next record, blank lines included; `false` at the end.
    pub(crate) fn next_record(&mut self, record: &mut Record) -> io::Result<bool> {
        record.bytes.clear();
        record.fault = None;
        record.too_long = false;
        if self.input.consumed() == 0 && self.input.peek()?.starts_with(BYTE_ORDER_MARK) {
            self.input.consume(BYTE_ORDER_MARK.len())?;
        }
        record.offset_bytes = self.input.consumed();
        let found = match self.format {
            Format::Jsonl | Format::Chat | Format::Sharegpt => self.line(record)?,
            Format::Csv => self.csv(record)?,
            Format::Json => self.json(record)?,
            Format::Mbox => self.mbox(record)?,
            Format::Mail => self.whole(record)?,
            Format::Parquet => unreachable!("Parquet is read by its own reader: this is a bug"),
        };
        if found {
            self.count += 1;
            record.line = self.count;
            record.too_long = record.size_bytes > self.max_row_bytes as u64;
            if record.too_long {
                record.bytes.truncate(KEPT_OF_TOO_LONG);
            }
        }
        Ok(found)
    }

    /// Room for line ends, so that they make no row too long.
    fn max_kept(&self) -> usize {
        self.max_row_bytes.max(KEPT_OF_TOO_LONG) + 2
    }

    fn line(&mut self, record: &mut Record) -> io::Result<bool> {
        let Some(size) = self.raw_line(record)? else { return Ok(false) };
        record.size_bytes = size;
        // All that was not kept counts as the row's: no line end is that long.
        if size == record.bytes.len() as u64 {
            while record.bytes.last() == Some(&b'\r') {
                record.bytes.pop();
            }
            record.size_bytes = record.bytes.len() as u64;
        }
        Ok(true)
    }

    /// Adds a line without its LF to the record. Returns the line's size, or `None` at the end.
    fn raw_line(&mut self, record: &mut Record) -> io::Result<Option<u64>> {
        let begin = self.input.consumed();
        let mut size = 0_u64;
        loop {
            let max_kept = self.max_kept();
            let shown = self.input.peek()?;
            if shown.is_empty() {
                let any = self.input.consumed() > begin;
                self.open_at = any.then_some(begin).or(self.open_at);
                return Ok(any.then_some(size));
            }
            let newline = memchr::memchr(b'\n', shown);
            let part = &shown[..newline.unwrap_or(shown.len())];
            let n_keep = part.len().min(max_kept.saturating_sub(record.bytes.len()));
            record.bytes.extend_from_slice(&part[..n_keep]);
            let n_part = part.len();
            size += n_part as u64;
            self.input.consume(n_part + usize::from(newline.is_some()))?;
            if newline.is_some() {
                return Ok(Some(size));
            }
        }
    }

    /// Takes bytes while `go_on` says so; it sees each byte once.
    fn take_while(
        &mut self,
        record: &mut Record,
        mut go_on: impl FnMut(u8) -> bool,
    ) -> io::Result<()> {
        loop {
            let max_kept = self.max_kept();
            let shown = self.input.peek()?;
            if shown.is_empty() {
                return Ok(());
            }
            let stop = shown.iter().position(|&byte| !go_on(byte));
            let part = &shown[..stop.unwrap_or(shown.len())];
            let n_keep = part.len().min(max_kept.saturating_sub(record.bytes.len()));
            record.bytes.extend_from_slice(&part[..n_keep]);
            let n_part = part.len();
            record.size_bytes += n_part as u64;
            self.input.consume(n_part)?;
            if stop.is_some() {
                return Ok(());
            }
        }
    }

    /// A record of CSV: to the first line end outside of quotes.
    fn csv(&mut self, record: &mut Record) -> io::Result<bool> {
        record.size_bytes = 0;
        let begin = self.input.consumed();
        let (mut quoted, mut at_field_start, mut was_quote) = (false, true, false);
        self.take_while(record, |byte| {
            if quoted {
                // A quote in quotes is doubled; a single one ends them.
                if was_quote {
                    was_quote = false;
                    if byte == b'"' {
                        return true;
                    }
                    quoted = false;
                } else {
                    was_quote = byte == b'"';
                    return true;
                }
            }
            if byte == b'\n' {
                return false;
            }
            quoted = byte == b'"' && at_field_start;
            at_field_start = byte == b',';
            true
        })?;
        let at_end = self.input.peek()?.is_empty();
        if at_end {
            if record.size_bytes == 0 {
                return Ok(false);
            }
            self.open_at = Some(begin);
        } else {
            self.input.consume(1)?;
        }
        if record.bytes.last() == Some(&b'\r') && record.bytes.len() as u64 == record.size_bytes {
            record.bytes.pop();
            record.size_bytes -= 1;
        }
        Ok(true)
    }

    fn skip_space(&mut self) -> io::Result<Option<u8>> {
        loop {
            let shown = self.input.peek()?;
            if shown.is_empty() {
                return Ok(None);
            }
            let n = shown.iter().position(|byte| !is_space(*byte));
            let (n_skip, found) = (n.unwrap_or(shown.len()), n.map(|n| shown[n]));
            self.input.consume(n_skip)?;
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    fn json(&mut self, record: &mut Record) -> io::Result<bool> {
        record.size_bytes = 0;
        let mut next = self.skip_space()?;
        if self.array == Array::Unknown {
            self.array = if next == Some(b'[') { Array::First } else { Array::Values };
            if next == Some(b'[') {
                self.input.consume(1)?;
                next = self.skip_space()?;
            }
        }
        record.offset_bytes = self.input.consumed();
        match (self.array, next) {
            (Array::Values | Array::Closed, None) => Ok(false),
            (_, None) => {
                self.array = Array::Closed;
                record.fault = Some("the file ends before the array does");
                Ok(true)
            }
            (Array::Closed, Some(_)) => {
                record.fault = Some("something comes after the end of the array");
                self.take_while(record, |_| true)?;
                Ok(true)
            }
            (Array::First | Array::Next, Some(b']')) => {
                self.array = Array::Closed;
                self.input.consume(1)?;
                self.json(record)
            }
            (Array::Next, Some(b',')) => {
                self.input.consume(1)?;
                self.skip_space()?;
                record.offset_bytes = self.input.consumed();
                self.value(record)
            }
            _ => self.value(record),
        }
    }

    /// One value: to the comma or bracket that ends it outside of strings and brackets, or to its own last bracket.
    fn value(&mut self, record: &mut Record) -> io::Result<bool> {
        let in_array = self.array != Array::Values;
        let (mut depth, mut in_string, mut escaped, mut ended) = (0_u64, false, false, false);
        self.take_while(record, |byte| {
            if in_string {
                in_string = escaped || byte != b'"';
                escaped = byte == b'\\' && !escaped;
                return true;
            }
            match byte {
                _ if !in_array && ended => return false,
                b'"' => in_string = true,
                b'{' | b'[' => depth += 1,
                b',' | b']' if in_array && depth == 0 => return false,
                b'}' | b']' => {
                    depth = depth.saturating_sub(1);
                    ended = depth == 0;
                }
                _ if !in_array && depth == 0 && is_space(byte) => return false,
                _ => {}
            }
            true
        })?;
        if record.bytes.len() as u64 == record.size_bytes {
            let end = record.bytes.iter().rposition(|byte| !is_space(*byte));
            record.bytes.truncate(end.map_or(0, |end| end + 1));
            record.size_bytes = record.bytes.len() as u64;
        }
        if record.size_bytes == 0 {
            record.fault = Some("a value is missing between two commas or brackets");
        }
        if in_array {
            self.array = Array::Next;
        }
        Ok(true)
    }

    /// A mail of a mailbox, without its `From ` line; ended by the next such line after an empty one, which is taken, too.
    fn mbox(&mut self, record: &mut Record) -> io::Result<bool> {
        record.size_bytes = 0;
        let max_kept = self.max_kept();
        let mut may_begin = !std::mem::take(&mut self.in_mail);
        // Whole lines: what is shown of the next one may end anywhere.
        let mut line = Record::default();
        loop {
            line.bytes.clear();
            let before = self.input.consumed();
            if self.raw_line(&mut line)?.is_none() {
                break;
            }
            if may_begin && starts_mail(&line.bytes) {
                if record.size_bytes > 0 {
                    self.in_mail = true;
                    return Ok(true);
                }
                record.offset_bytes = self.input.consumed();
                may_begin = false;
                continue;
            }
            may_begin = matches!(line.bytes.as_slice(), [] | [b'\r']);
            record.size_bytes += self.input.consumed() - before;
            let n_keep = line.bytes.len().min(max_kept.saturating_sub(record.bytes.len()));
            record.bytes.extend_from_slice(&line.bytes[..n_keep]);
            if record.bytes.len() < max_kept {
                record.bytes.push(b'\n');
            }
        }
        // The mail that ends the file may go on.
        if record.size_bytes > 0 {
            self.open_at = Some(record.offset_bytes);
        }
        Ok(record.size_bytes > 0)
    }

    fn whole(&mut self, record: &mut Record) -> io::Result<bool> {
        if self.count > 0 {
            return Ok(false);
        }
        let max_kept = self.max_kept();
        record.size_bytes = self.input.read_rest(max_kept, &mut record.bytes)?;
        Ok(true)
    }
}

/// White space of RFC 8259, which has no form feed.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// `From sender date`, as mailboxes separate their mails: a line of prose seldom has a weekday third.
fn starts_mail(line: &[u8]) -> bool {
    const DAYS: [&[u8]; 7] = [b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun"];
    let Some(rest) = line.strip_prefix(b"From ") else { return false };
    let mut words = rest.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    words.next().is_some() && words.next().is_some_and(|word| DAYS.contains(&word))
}

impl Record {
    /// Nothing but white space.
    pub(crate) fn is_blank(&self) -> bool {
        self.fault.is_none()
            && self.unreadable.is_none()
            && !self.too_long
            && self.bytes.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r'))
    }
}

#[cfg(test)]
#[path = "tests/framer.rs"]
mod tests;
