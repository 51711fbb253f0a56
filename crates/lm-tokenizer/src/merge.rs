//! The merge loop that byte-level BPE and SentencePiece BPE share: join the best neighbours, the
//! leftmost of equals first, until no two neighbours join.
//!
//! It must never know what a symbol's bytes are or where ranks come from.
//!
//! Start reading at [`Merger::merge`].

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// No token, or no neighbour.
pub(crate) const NONE: u32 = u32::MAX;

/// A stretch of the text that is one token, or may become a part of one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Symbol {
    /// Where it begins, in bytes.
    pub(crate) start: u32,
    /// Its bytes; 0 once it was joined to its left neighbour.
    pub(crate) len: u32,
    /// Its token, or [`NONE`].
    pub(crate) id: u32,
    prev: u32,
    next: u32,
}

/// What two neighbours become.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Joined {
    /// Lower joins first.
    pub(crate) rank: u32,
    /// The token of both together.
    pub(crate) id: u32,
}

/// Two neighbours that may join. The order of fields is the order of joining.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    left: u32,
    right: u32,
    /// Bytes of both when the candidate was found: when a neighbour has grown since, it is stale.
    len: u32,
    id: u32,
}

/// The work space of the loop, reused from word to word.
#[derive(Debug, Default)]
pub(crate) struct Merger {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<Candidate>>,
}

impl Merger {
    /// Forgets the last word.
    pub(crate) fn clear(&mut self) {
        self.symbols.clear();
        self.queue.clear();
    }

    /// Appends a symbol of `len` bytes to the word.
    pub(crate) fn push(&mut self, len: u32, id: u32) {
        let index = self.symbols.len() as u32;
        let (start, prev) = match self.symbols.last_mut() {
            Some(last) => {
                last.next = index;
                (last.start + last.len, index - 1)
            }
            None => (0, NONE),
        };
        self.symbols.push(Symbol { start, len, id, prev, next: NONE });
    }

    /// Joins neighbours as `join` says. In O(n log n) for n symbols.
    pub(crate) fn merge(&mut self, join: impl Fn(&Symbol, &Symbol) -> Option<Joined>) {
        for left in 1..self.symbols.len() as u32 {
            self.consider(left - 1, left, &join);
        }
        while let Some(Reverse(best)) = self.queue.pop() {
            let (left, right) = (best.left as usize, best.right as usize);
            let (left_len, right_len) = (self.symbols[left].len, self.symbols[right].len);
            if left_len == 0 || right_len == 0 || left_len + right_len != best.len {
                continue;
            }
            let next = self.symbols[right].next;
            self.symbols[right].len = 0;
            self.symbols[left].len = best.len;
            self.symbols[left].id = best.id;
            self.symbols[left].next = next;
            if next != NONE {
                self.symbols[next as usize].prev = best.left;
            }
            self.consider(self.symbols[left].prev, best.left, &join);
            self.consider(best.left, next, &join);
        }
    }

    /// The symbols that are left, in order.
    pub(crate) fn symbols(&self) -> impl Iterator<Item = &Symbol> {
        self.symbols.iter().filter(|s| s.len > 0)
    }

    fn consider(
        &mut self,
        left: u32,
        right: u32,
        join: impl Fn(&Symbol, &Symbol) -> Option<Joined>,
    ) {
        if left == NONE || right == NONE {
            return;
        }
        let (l, r) = (&self.symbols[left as usize], &self.symbols[right as usize]);
        if let Some(Joined { rank, id }) = join(l, r) {
            self.queue.push(Reverse(Candidate { rank, left, right, len: l.len + r.len, id }));
        }
    }
}
