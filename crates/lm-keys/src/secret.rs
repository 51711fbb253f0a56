//! What a key looks like: `lm-`, the public id, `-`, and 256 random bits.
//!
//! Keys are hashed once and fast. A slow, salted hash is for passwords, which people choose and others
//! can guess; 256 random bits cannot be guessed however fast the hash is, and a slow one would let
//! anybody burn the server's time by sending wrong keys.
//!
//! It must never keep a secret.
//!
//! Start reading at [`mint`].

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::{KeyError, KeyId};

/// Makes the hash of a key useless as a hash of anything else.
const CONTEXT: &str = "lastmile 2026-11 API key";
const PREFIX: &str = "lm-";

/// A new key and its id.
pub(crate) fn mint() -> Result<(KeyId, String), KeyError> {
    let mut secret = [0; 32];
    let mut id = [0; 8];
    let random = getrandom::fill(&mut secret).and_then(|()| getrandom::fill(&mut id));
    random.map_err(|error| KeyError::NoRandomness { detail: error.to_string() })?;
    // 0 is who came without a key.
    let id = KeyId(u64::from_le_bytes(id).max(1));
    Ok((id, format!("{PREFIX}{id}-{}", URL_SAFE_NO_PAD.encode(secret))))
}

/// The id that a key says it has.
pub(crate) fn claimed_id(key: &str) -> Option<KeyId> {
    let (id, _) = key.strip_prefix(PREFIX)?.split_once('-')?;
    id.parse().ok()
}

/// Two hashes are compared in constant time, as blake3 does.
pub(crate) fn hash(key: &str) -> blake3::Hash {
    blake3::Hasher::new_derive_key(CONTEXT).update(key.as_bytes()).finalize()
}
