//! One block as a file: a header, the block's tokens, its K and V.
//!
//! Numbers are little-endian. The header: magic, version, tokens in the block (4 bytes each of both), the
//! cache's key and the block's name (32 bytes each), bytes of K and V (8), and the BLAKE3 digest of all that
//! comes before it, of the tokens, and of K and V (32). A file is written under another name and renamed when
//! it is whole.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::time::SystemTime;

use lm_engine::{MovedBlock, Unusable};

const MAGIC: [u8; 8] = *b"LASTMKVB";
const VERSION: u32 = 1;
const DIGEST_AT: usize = 88;
const HEADER_BYTES: usize = DIGEST_AT + 32;

/// What all blocks of a cache have in common.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) key: [u8; 32],
    pub(super) block_bytes: usize,
}

/// Why a file gave no block.
#[derive(Debug)]
pub(super) enum ReadError {
    /// It is gone.
    Missing,
    /// It must be removed.
    Unusable(Unusable),
    /// The system failed.
    Io(io::Error),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound => ReadError::Missing,
            ErrorKind::UnexpectedEof => ReadError::Unusable(Unusable::Torn),
            _ => ReadError::Io(error),
        }
    }
}

impl Layout {
    /// Bytes of a file of a block of `block_size` tokens.
    pub(super) fn file_bytes(&self, block_size: usize) -> u64 {
        (HEADER_BYTES + block_size * size_of::<u32>() + self.block_bytes) as u64
    }

    /// Everything before the digest.
    fn head(&self, block: &MovedBlock) -> [u8; DIGEST_AT] {
        let mut head = [0; DIGEST_AT];
        head[..8].copy_from_slice(&MAGIC);
        head[8..12].copy_from_slice(&VERSION.to_le_bytes());
        head[12..16].copy_from_slice(&(block.tokens.len() as u32).to_le_bytes());
        head[16..48].copy_from_slice(&self.key);
        head[48..80].copy_from_slice(block.hash.as_bytes());
        head[80..].copy_from_slice(&(self.block_bytes as u64).to_le_bytes());
        head
    }

    /// Writes a block as a file that did not exist, for its owner alone. Its bytes.
    ///
    /// # Errors
    /// What the system says; a part of the file may be there.
    pub(super) fn write(&self, path: &Path, block: &MovedBlock) -> io::Result<u64> {
        let mut head = self.head(block).to_vec();
        let tokens = token_bytes(&block.tokens);
        head.extend_from_slice(&digest(&head, &tokens, &block.bytes));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path)?;
        for part in [&head, &tokens, &block.bytes] {
            file.write_all(part)?;
        }
        Ok(self.file_bytes(block.tokens.len()))
    }

    /// Reads the file of a block whose name and tokens are known, and notes that it was used.
    ///
    /// # Errors
    /// It is gone, not what was written, or cannot be read.
    pub(super) fn read(&self, path: &Path, block: &mut MovedBlock) -> Result<u64, ReadError> {
        let mut file = File::open(path)?;
        let n_bytes = self.file_bytes(block.tokens.len());
        let mut head = [0; HEADER_BYTES];
        file.read_exact(&mut head)?;
        let (said, digest_said) = head.split_at(DIGEST_AT);
        let expected = self.head(block);
        if said != expected {
            return Err(ReadError::Unusable(Unusable::Foreign));
        }
        if file.metadata()?.len() != n_bytes {
            return Err(ReadError::Unusable(Unusable::Torn));
        }
        let mut tokens = vec![0; block.tokens.len() * size_of::<u32>()];
        file.read_exact(&mut tokens)?;
        block.bytes.resize(self.block_bytes, 0);
        file.read_exact(&mut block.bytes)?;
        let is_same = tokens == token_bytes(&block.tokens)
            && digest(said, &tokens, &block.bytes) == digest_said;
        if !is_same {
            return Err(ReadError::Unusable(Unusable::Corrupt));
        }
        // A folder that does not take the time only forgets earlier what is still used.
        if let Err(error) = file.set_modified(SystemTime::now()) {
            tracing::debug!(%error, "cannot note that a cached block was used");
        }
        Ok(n_bytes)
    }
}

fn token_bytes(tokens: &[u32]) -> Vec<u8> {
    tokens.iter().flat_map(|token| token.to_le_bytes()).collect()
}

fn digest(head: &[u8], tokens: &[u8], bytes: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new().update(head).update(tokens).update(bytes).finalize().as_bytes()
}
