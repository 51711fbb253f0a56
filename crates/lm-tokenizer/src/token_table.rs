//! What each token adds to the text: one flat byte table.
//!
//! It must never know how text is encoded.
//!
//! Start reading at [`TokenTable::bytes`].

use std::borrow::Cow;

use ahash::AHashMap;

use crate::TokenizerError;

/// The most tokens of one vocabulary.
pub(crate) const MAX_TOKENS: usize = 1 << 22;
/// The most bytes of all tokens together.
const MAX_BYTES: usize = 1 << 28;

/// The bytes of every token, and the names of those that add none.
#[derive(Debug)]
pub(crate) struct TokenTable {
    bytes: Vec<u8>,
    /// Token `i` is `bytes[offsets[i]..offsets[i + 1]]`. \[vocab_size + 1\]
    offsets: Vec<u32>,
    /// Control tokens add nothing to the text; this is how they are shown.
    control: AHashMap<u32, Box<str>>,
    /// Those of them that add their names all the same. Ascending.
    voiced: Vec<u32>,
}

impl TokenTable {
    pub(crate) fn with_capacity(n_tokens: usize) -> Self {
        let mut offsets = Vec::with_capacity(n_tokens + 1);
        offsets.push(0);
        TokenTable {
            bytes: Vec::with_capacity(8 * n_tokens),
            offsets,
            control: AHashMap::new(),
            voiced: Vec::new(),
        }
    }

    /// Appends a token that adds `bytes` to the text.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), TokenizerError> {
        let all = self.bytes.len() + bytes.len();
        if all > MAX_BYTES {
            return Err(TokenizerError::VocabBytes { bytes: all, limit: MAX_BYTES });
        }
        self.bytes.extend_from_slice(bytes);
        self.offsets.push(all as u32);
        Ok(())
    }

    /// Appends a token that adds nothing to the text.
    pub(crate) fn push_control(&mut self, name: &str) {
        self.control.insert(self.len() as u32, name.into());
        self.offsets.push(self.bytes.len() as u32);
    }

    pub(crate) fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    pub(crate) fn bytes(&self, id: u32) -> &[u8] {
        let place = id as usize;
        match (self.offsets.get(place), self.offsets.get(place + 1)) {
            (Some(&start), Some(&end)) if start < end => &self.bytes[start as usize..end as usize],
            _ => self.voiced_name(id).unwrap_or_default().as_bytes(),
        }
    }

    /// Has the control tokens that are meant add their names to the text; says whether there are any.
    pub(crate) fn voice(&mut self, is_meant: impl Fn(u32, &str) -> bool) -> bool {
        let meant = self.control.iter().filter(|(id, name)| is_meant(**id, name));
        let mut voiced: Vec<u32> = meant.map(|(id, _)| *id).collect();
        voiced.sort_unstable();
        self.voiced = voiced;
        !self.voiced.is_empty()
    }

    fn voiced_name(&self, id: u32) -> Option<&str> {
        self.voiced.binary_search(&id).ok()?;
        self.control.get(&id).map(|name| &**name)
    }

    pub(crate) fn text(&self, id: u32) -> Cow<'_, str> {
        match self.control.get(&id) {
            Some(name) => Cow::Borrowed(name),
            None => String::from_utf8_lossy(self.bytes(id)),
        }
    }

    pub(crate) fn is_control(&self, id: u32) -> bool {
        self.control.contains_key(&id) && self.voiced_name(id).is_none()
    }
}
