//! What a dataset has of the traffic, so that only what is new is added to it.
//!
//! It must never hold a text: digests of it are enough.
//!
//! Start reading at [`KnownRows::takes`].

use std::collections::HashSet;
use std::io::{self, Write};

use serde_json::Value;

/// The answers that a dataset has, by request and choice, and by their conversations. What is written to it are the dataset's
/// rows as JSON lines, such as `lm_data::export` writes.
#[derive(Debug, Default)]
pub struct KnownRows {
    answers: HashSet<(String, u64)>,
    conversations: HashSet<blake3::Hash>,
    /// A line whose end did not come yet.
    line: Vec<u8>,
}

impl KnownRows {
    /// Whether a row is new: neither its answer nor its conversation is known. It is from then on.
    pub fn takes(&mut self, row: &Value) -> bool {
        let conversation = blake3::hash(row["messages"].to_string().as_bytes());
        let is_new_text = self.conversations.insert(conversation);
        let lineage = &row["lineage"];
        let answer = lineage["request_id"].as_str().zip(lineage["choice"].as_u64());
        let is_new_answer = match answer {
            Some((request, choice)) => self.answers.insert((request.to_owned(), choice)),
            None => true,
        };
        is_new_text && is_new_answer
    }
}

impl Write for KnownRows {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                // A row that is not of traffic is known by what it is.
                if let Ok(row) = serde_json::from_slice(&self.line) {
                    self.takes(&row);
                }
                self.line.clear();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use serde_json::json;

    use super::*;

    fn row(request_id: &str, choice: u32, text: &str) -> Value {
        json!({
            "messages": [{ "role": "user", "content": "Hi." }, { "role": "assistant", "content": text }],
            "lineage": { "request_id": request_id, "choice": choice, "release_hash": "07" },
        })
    }

    #[test]
    fn what_a_dataset_has_is_not_taken_again() {
        let mut known = KnownRows::default();
        let text = format!("{}\n{}\n{{\"a\": 1}}\n", row("r1", 0, "One."), row("r1", 1, "Two."));
        for piece in text.as_bytes().chunks(7) {
            known.write_all(piece).unwrap();
        }
        assert!(!known.takes(&row("r1", 0, "One.")));
        assert!(!known.takes(&row("r1", 1, "Corrected since.")), "it is the same answer");
        assert!(!known.takes(&row("r2", 0, "Two.")), "it is the same conversation");
        assert!(known.takes(&row("r2", 1, "Three.")));
        assert!(!known.takes(&row("r2", 1, "Three.")));
    }
}
