//! Splits a file into rows with bounded memory, and digests it on the way.
//!
//! It must never know JSON, and never hold more than one row.
//!
//! Start reading at [`RowReader::next_row`].

use std::io::{self, BufRead, BufReader, Read};

/// A row that is too long is kept up to this many bytes.
const KEPT_OF_TOO_LONG: usize = 4096;
const BUFFER_BYTES: usize = 256 << 10;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

pub(crate) struct RowReader<R> {
    source: BufReader<R>,
    hasher: blake3::Hasher,
    max_row_bytes: usize,
    bytes_read: u64,
    line: u64,
    kept: Vec<u8>,
}

/// One line without its end: LF, and the CRs before it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Row<'a> {
    /// Where its first byte is in the file; a byte order mark comes before the first row.
    pub(crate) offset_bytes: u64,
    /// From 1.
    pub(crate) line: u64,
    /// The row, or its beginning when it is too long.
    pub(crate) bytes: &'a [u8],
    /// The size of the whole row.
    pub(crate) size_bytes: u64,
    /// It is larger than may be.
    pub(crate) too_long: bool,
}

impl<R: Read> RowReader<R> {
    pub(crate) fn new(source: R, max_row_bytes: usize) -> RowReader<R> {
        RowReader {
            source: BufReader::with_capacity(BUFFER_BYTES, source),
            hasher: blake3::Hasher::new(),
            max_row_bytes,
            bytes_read: 0,
            line: 0,
            kept: Vec::new(),
        }
    }

    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// The digest of what was read so far.
    pub(crate) fn hash(&self) -> blake3::Hash {
        self.hasher.finalize()
    }

    /// The next row, blank ones included.
    pub(crate) fn next_row(&mut self) -> io::Result<Option<Row<'_>>> {
        let start = self.bytes_read;
        let Some(line_bytes) = self.read_line()? else { return Ok(None) };
        self.line += 1;
        let n_kept = self.kept.len();
        let mut bytes: &[u8] = &self.kept;
        // All that was not kept counts as the row's: no line end is that long.
        let mut size_bytes = line_bytes;
        if line_bytes == n_kept as u64 {
            while let [head @ .., b'\r'] = bytes {
                bytes = head;
            }
            size_bytes = bytes.len() as u64;
        }
        let mut offset_bytes = start;
        if self.line == 1
            && let Some(rest) = bytes.strip_prefix(BYTE_ORDER_MARK)
        {
            bytes = rest;
            offset_bytes += BYTE_ORDER_MARK.len() as u64;
            size_bytes -= BYTE_ORDER_MARK.len() as u64;
        }
        let too_long = size_bytes > self.max_row_bytes as u64;
        if too_long {
            bytes = &bytes[..bytes.len().min(KEPT_OF_TOO_LONG)];
        }
        Ok(Some(Row { offset_bytes, line: self.line, bytes, size_bytes, too_long }))
    }

    /// Reads past the next LF and keeps the line's beginning. Returns the line's bytes without
    /// its LF, or `None` at the end.
    fn read_line(&mut self) -> io::Result<Option<u64>> {
        // Room for a CR and a byte order mark, so that neither makes a row too long.
        let max_kept = self.max_row_bytes.max(KEPT_OF_TOO_LONG) + 1 + BYTE_ORDER_MARK.len();
        self.kept.clear();
        let mut line_bytes: u64 = 0;
        let mut any = false;
        loop {
            let buffer = match self.source.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if buffer.is_empty() {
                return Ok(any.then_some(line_bytes));
            }
            any = true;
            let newline = buffer.iter().position(|&byte| byte == b'\n');
            let part = &buffer[..newline.unwrap_or(buffer.len())];
            let n_keep = part.len().min(max_kept - self.kept.len());
            self.kept.extend_from_slice(&part[..n_keep]);
            line_bytes += part.len() as u64;
            let n_used = part.len() + usize::from(newline.is_some());
            self.hasher.update(&buffer[..n_used]);
            self.bytes_read += n_used as u64;
            self.source.consume(n_used);
            if newline.is_some() {
                return Ok(Some(line_bytes));
            }
        }
    }
}

impl Row<'_> {
    /// Nothing but white space.
    pub(crate) fn is_blank(&self) -> bool {
        !self.too_long && self.bytes.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r'))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

    use super::*;

    /// Rows as (offset, line, bytes, size, too long), with at most 4 bytes each.
    #[track_caller]
    fn check(input: &[u8], expect: &[(u64, u64, &[u8], u64, bool)]) {
        let mut reader = RowReader::new(input, 4);
        let mut expect = expect.iter();
        while let Some(row) = reader.next_row().unwrap() {
            let &(offset_bytes, line, bytes, size_bytes, too_long) = expect.next().unwrap();
            assert_eq!(row, Row { offset_bytes, line, bytes, size_bytes, too_long });
        }
        assert_eq!(expect.next(), None);
        assert_eq!(reader.bytes_read(), input.len() as u64);
        assert_eq!(reader.hash(), blake3::hash(input));
    }

    #[test]
    fn rows_are_found_with_their_offsets() {
        check(b"", &[]);
        check(b"\n", &[(0, 1, b"", 0, false)]);
        check(b"ab", &[(0, 1, b"ab", 2, false)]);
        check(b"ab\r\ncd\n", &[(0, 1, b"ab", 2, false), (4, 2, b"cd", 2, false)]);
        check(b"a\rb\r", &[(0, 1, b"a\rb", 3, false)]);
        check(b"\xef\xbb\xbfabcd\r\ne", &[(3, 1, b"abcd", 4, false), (9, 2, b"e", 1, false)]);
        check(b"a\n\xef\xbb\xbf", &[(0, 1, b"a", 1, false), (2, 2, b"\xef\xbb\xbf", 3, false)]);
        check(b"abcde\nf", &[(0, 1, b"abcde", 5, true), (6, 2, b"f", 1, false)]);
        let long = [b'x'; 5000];
        let input = [&long, b"\nn".as_slice()].concat();
        check(&input, &[(0, 1, &long[..4096], 5000, true), (5001, 2, b"n", 1, false)]);
    }
}
