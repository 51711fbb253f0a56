//! SHA-256 of files, and its hexadecimal form.
//!
//! It must never hold a file in memory.
//!
//! Start reading at [`copy_hashing`].

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

const CHUNK_BYTES: usize = 1 << 18;

/// What a stream of bytes was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) size_bytes: u64,
    pub(super) sha256: [u8; 32],
}

/// Copies until the end, or until one byte more than `limit_bytes` was seen, and hashes on the way.
/// `advance` is told the bytes so far.
///
/// # Errors
/// What `from` or `to` says.
pub(super) fn copy_hashing(
    from: &mut impl Read,
    to: &mut impl Write,
    hash: &mut Sha256,
    limit_bytes: u64,
    mut advance: impl FnMut(u64),
) -> io::Result<u64> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut from = from.take(limit_bytes.saturating_add(1));
    let mut done_bytes = 0;
    loop {
        let n = match from.read(&mut chunk) {
            Ok(0) => return Ok(done_bytes),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hash.update(&chunk[..n]);
        to.write_all(&chunk[..n])?;
        done_bytes += n as u64;
        advance(done_bytes);
    }
}

/// Hashes a file.
///
/// # Errors
/// What the operating system says.
pub(super) fn hash_file(path: &Path) -> io::Result<Content> {
    let mut hash = Sha256::new();
    let mut file = File::open(path)?;
    let size_bytes = copy_hashing(&mut file, &mut io::sink(), &mut hash, u64::MAX, |_| ())?;
    Ok(Content { size_bytes, sha256: hash.finalize().into() })
}

/// Lower-case hexadecimal.
pub(crate) fn to_hex(digest: &[u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// 64 hexadecimal digits, or nothing.
pub(crate) fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits: [u8; 64] = digits?.try_into().ok()?;
    Some(std::array::from_fn(|i| digits[2 * i] << 4 | digits[2 * i + 1]))
}
