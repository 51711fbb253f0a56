//! Bytes to text, token by token, although characters may span tokens.
//!
//! It must never know tokens or vocabularies: bytes come in, whole characters go out.
//!
//! Start reading at [`DecodeStream::push`].

/// Turns a stream of bytes into text. All pieces together give what [`String::from_utf8_lossy`]
/// gives for all bytes together, however the bytes are cut.
#[derive(Clone, Debug, Default)]
pub struct DecodeStream {
    /// The start of a character that is not complete yet; the first `tail_len` bytes count.
    tail: [u8; 3],
    tail_len: usize,
}

impl DecodeStream {
    /// A stream that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        DecodeStream::default()
    }

    /// How many bytes wait for the rest of their character: 0 to 3.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.tail_len
    }

    /// Appends the whole characters that are known after `bytes` to `out`; what cannot be UTF-8
    /// becomes U+FFFD. Allocates nothing but what `out` needs to grow.
    pub fn push(&mut self, bytes: &[u8], out: &mut String) {
        let rest = self.complete_tail(bytes, out);
        let mut chunks = rest.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            out.push_str(chunk.valid());
            let invalid = chunk.invalid();
            if chunks.peek().is_none() && is_incomplete(invalid) {
                self.tail[..invalid.len()].copy_from_slice(invalid);
                self.tail_len = invalid.len();
            } else if !invalid.is_empty() {
                out.push(char::REPLACEMENT_CHARACTER);
            }
        }
    }

    /// The stream is over: an incomplete character becomes U+FFFD, and the stream starts anew.
    pub fn finish(&mut self, out: &mut String) {
        if self.tail_len > 0 {
            out.push(char::REPLACEMENT_CHARACTER);
            self.tail_len = 0;
        }
    }

    /// Feeds the tail byte by byte until its character is complete or broken; returns what is left.
    fn complete_tail<'b>(&mut self, mut bytes: &'b [u8], out: &mut String) -> &'b [u8] {
        while self.tail_len > 0
            && let Some((&next, after)) = bytes.split_first()
        {
            let mut buffer = [0; 4];
            buffer[..self.tail_len].copy_from_slice(&self.tail[..self.tail_len]);
            buffer[self.tail_len] = next;
            let candidate = &buffer[..=self.tail_len];
            if let Ok(character) = std::str::from_utf8(candidate) {
                out.push_str(character);
                self.tail_len = 0;
            } else if is_incomplete(candidate) {
                self.tail[self.tail_len] = next;
                self.tail_len += 1;
            } else {
                // The tail alone could still have become a character, so `next` is what broke it,
                // and `next` may begin the following one.
                out.push(char::REPLACEMENT_CHARACTER);
                self.tail_len = 0;
                return bytes;
            }
            bytes = after;
        }
        bytes
    }
}

/// Whether `bytes` is the beginning of one character, and lacks only its end.
fn is_incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> String {
        let (mut stream, mut out) = (DecodeStream::new(), String::new());
        for piece in pieces {
            stream.push(piece, &mut out);
            assert!(stream.pending_bytes() <= 3);
        }
        stream.finish(&mut out);
        out
    }

    /// Decodes `bytes` in one piece, byte by byte, and in two pieces cut at every place.
    #[track_caller]
    fn check(bytes: &[u8]) {
        let expect = String::from_utf8_lossy(bytes);
        assert_eq!(decode([bytes]), expect);
        assert_eq!(decode(bytes.chunks(1)), expect);
        for cut in 0..=bytes.len() {
            assert_eq!(decode([&bytes[..cut], &bytes[cut..]]), expect, "cut at {cut}");
        }
    }

    #[test]
    fn any_cut_decodes_like_the_whole() {
        check(b"");
        check("plain, é, 中, 👍🏽, e\u{301}".as_bytes());
        check(b"\xf0\x9f\x91");
        check(b"\xe4\xe4");
        check(b"\xf0\x9f\x91A\xf0\x9f\xf0\x9f\x91\x8d");
        check(b"\xc0\xaf\xed\xa0\x80\xf4\x90\x80\x80\xff\xfe");
        check(b"\xe4\xb8\xe4\xb8\xad\x80\x80");
    }

    #[test]
    fn a_character_is_held_back_until_it_is_whole() {
        let (mut stream, mut out) = (DecodeStream::new(), String::new());
        stream.push(b"a\xf0\x9f\x91", &mut out);
        assert_eq!((out.as_str(), stream.pending_bytes()), ("a", 3));
        stream.push(b"\x8d!", &mut out);
        assert_eq!((out.as_str(), stream.pending_bytes()), ("a👍!", 0));
    }

    /// Bytes that are likely to be UTF-8 leads and continuations in wrong places.
    fn awkward_bytes() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![
            any::<u8>(),
            Just(0x80),
            Just(0x9f),
            Just(0xe4),
            Just(0xed),
            Just(0xf0),
            Just(0xf4),
        ];
        prop::collection::vec(byte, 0..40)
    }

    proptest! {
        #[test]
        fn random_cuts_of_random_bytes(
            pieces in prop::collection::vec(awkward_bytes(), 0..8)
        ) {
            let expect = String::from_utf8_lossy(&pieces.concat()).into_owned();
            prop_assert_eq!(decode(pieces.iter().map(Vec::as_slice)), expect);
        }
    }
}
