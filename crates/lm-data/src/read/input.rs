//! A source's bytes: digested exactly as far as they were used, decompressed when they are gzip.
//!
//! It must never know records.
//!
//! Start reading at [`Input::open`].

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use crate::DataError;
use crate::error::io_error;

const BUFFER_BYTES: usize = 256 << 10;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Bytes of a source with a digest of those that were consumed.
pub(crate) struct Input {
    bytes: Box<dyn BufRead + Send>,
    hasher: blake3::Hasher,
    consumed: u64,
}

impl Input {
    /// Opens a file or a pipe. Returns it and the file's size, 0 for a pipe. What is gzip is decompressed; offsets
    /// and digests are those of the plain bytes.
    pub(crate) fn open(path: &Path) -> Result<(Input, u64), DataError> {
        let file = File::open(path).map_err(io_error("open the source", path))?;
        let metadata = file.metadata().map_err(io_error("read the size of", path))?;
        if metadata.is_dir() {
            return Err(DataError::SourceIsFolder { path: path.to_owned() });
        }
        if is_device(&metadata) {
            return Err(DataError::SourceIsDevice { path: path.to_owned() });
        }
        let mut plain = BufReader::with_capacity(BUFFER_BYTES, file);
        let head = plain.fill_buf().map_err(io_error("read", path))?;
        if head.starts_with(&ZSTD_MAGIC) {
            return Err(DataError::Compressed { path: path.to_owned(), kind: "zstd" });
        }
        let bytes: Box<dyn BufRead + Send> = if head.starts_with(&GZIP_MAGIC) {
            Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(plain)))
        } else {
            Box::new(plain)
        };
        Ok((Input::new(bytes), metadata.len()))
    }

    pub(crate) fn new(bytes: Box<dyn BufRead + Send>) -> Input {
        Input { bytes, hasher: blake3::Hasher::new(), consumed: 0 }
    }

    /// How far it is.
    pub(crate) fn consumed(&self) -> u64 {
        self.consumed
    }

    /// The digest of what was consumed.
    pub(crate) fn hash(&self) -> blake3::Hash {
        self.hasher.finalize()
    }

    /// What comes next, without going on; empty at the end.
    pub(crate) fn peek(&mut self) -> io::Result<&[u8]> {
        loop {
            match self.bytes.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Borrowed again, for the loop may not return what it borrows.
                Ok(_) => return self.bytes.fill_buf(),
                Err(error) => return Err(error),
            }
        }
    }

    /// Goes on by `n` bytes of what [`Input::peek`] showed.
    pub(crate) fn consume(&mut self, n: usize) -> io::Result<()> {
        let shown = self.bytes.fill_buf()?;
        self.hasher.update(&shown[..n]);
        self.bytes.consume(n);
        self.consumed += n as u64;
        Ok(())
    }

    /// Goes on to `offset`, or to the end when that comes first.
    pub(crate) fn skip_to(&mut self, offset: u64) -> io::Result<()> {
        while self.consumed < offset {
            let left = offset - self.consumed;
            let n_shown = self.peek()?.len();
            if n_shown == 0 {
                break;
            }
            self.consume(usize::try_from(left).unwrap_or(usize::MAX).min(n_shown))?;
        }
        Ok(())
    }

    /// The next bytes, at most `limit`, of an input that is not read any further.
    pub(crate) fn head(self, limit: usize) -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        self.bytes.take(limit as u64).read_to_end(&mut head)?;
        Ok(head)
    }

    /// All that is left, but no more than `limit` bytes, and whether that was all.
    pub(crate) fn read_rest(&mut self, limit: usize, into: &mut Vec<u8>) -> io::Result<u64> {
        let mut size = 0;
        loop {
            let shown = self.peek()?;
            let n = shown.len();
            if n == 0 {
                return Ok(size);
            }
            let n_keep = n.min(limit.saturating_sub(into.len()));
            into.extend_from_slice(&shown[..n_keep]);
            self.consume(n)?;
            size += n as u64;
        }
    }
}

/// The first bytes of a source after decompression, at most `limit`.
pub(crate) fn head_of(path: &Path, limit: usize) -> Result<Vec<u8>, DataError> {
    Input::open(path)?.0.head(limit).map_err(io_error("read", path))
}

/// What a decompressor says of bytes that are not its own.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    matches!(error.kind(), InvalidData | InvalidInput | UnexpectedEof)
}

/// Whether reading may never end. Pipes may be sources.
#[cfg(unix)]
fn is_device(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    metadata.file_type().is_char_device() || metadata.file_type().is_block_device()
}

#[cfg(not(unix))]
fn is_device(_metadata: &std::fs::Metadata) -> bool {
    false
}
