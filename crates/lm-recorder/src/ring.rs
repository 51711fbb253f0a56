//! The file: records one after another, and from the end to the beginning again. Each has its number and a
//! checksum, so a reader finds the whole ones wherever they lie, and takes none that is torn.
//!
//! Start reading at [`append`] and [`scan`].

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

/// "LMRr": where a record may begin.
const MARK: [u8; 4] = *b"LMRr";
/// Mark, length, number, checksum, kind: `[4][4][8][4][4]`.
const HEAD: usize = 24;
/// Records begin at multiples of this.
const ALIGN: usize = 8;

/// One whole record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Rises by one from record to record.
    pub(crate) number: u64,
    pub(crate) kind: u32,
    pub(crate) payload: Vec<u8>,
}

/// Writes at the end of what was written last.
#[derive(Debug)]
pub(crate) struct RingFile {
    file: File,
    capacity: u64,
    place: u64,
    next_number: u64,
    /// Bytes written since it was opened.
    pub(crate) n_written: u64,
    buffer: Vec<u8>,
    /// Where `buffer` belongs.
    buffer_place: u64,
}

impl RingFile {
    /// An empty ring in `file`.
    pub(crate) fn new(file: File, capacity: u64) -> io::Result<Self> {
        // What stood there would be read as what comes before the first record.
        file.set_len(0)?;
        file.set_len(capacity)?;
        let buffer = Vec::with_capacity(1 << 16);
        Ok(RingFile {
            file,
            capacity,
            place: 0,
            next_number: 1,
            n_written: 0,
            buffer,
            buffer_place: 0,
        })
    }

    /// The longest payload.
    pub(crate) fn max_payload(capacity: u64) -> usize {
        usize::try_from(capacity / 8).unwrap_or(usize::MAX)
    }

    /// Puts a record behind the last one; it is in the file after [`RingFile::flush`].
    pub(crate) fn append(&mut self, kind: u32, parts: &[&[u8]]) -> io::Result<()> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let whole = (HEAD + len).next_multiple_of(ALIGN) as u64;
        if whole > self.capacity {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        if self.place + whole > self.capacity {
            self.flush()?;
            (self.place, self.buffer_place) = (0, 0);
        }
        push(&mut self.buffer, self.next_number, kind, parts);
        let end = (self.place - self.buffer_place + whole) as usize;
        self.buffer.resize(end, 0);
        self.place += whole;
        self.n_written += whole;
        self.next_number += 1;
        Ok(())
    }

    /// Hands everything to the system, which keeps it when this process dies.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let wrote = self
            .file
            .seek(SeekFrom::Start(self.buffer_place))
            .and_then(|_| self.file.write_all(&self.buffer));
        self.buffer.clear();
        self.buffer_place = self.place;
        wrote
    }
}

/// A record, and where it begins.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) place: u64,
    pub(crate) record: Record,
}

impl Placed {
    /// Where it begins, and where the next one may.
    pub(crate) fn range(&self) -> (u64, u64) {
        let whole = (HEAD + self.record.payload.len()).next_multiple_of(ALIGN) as u64;
        (self.place, self.place + whole)
    }
}

/// The whole records of a file, in the order of their numbers.
pub(crate) fn scan(file: &mut File) -> io::Result<Vec<Record>> {
    Ok(placed(file)?.into_iter().map(|one| one.record).collect())
}

/// As [`scan`], with where they are.
pub(crate) fn placed(file: &mut File) -> io::Result<Vec<Placed>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    let mut records = Vec::new();
    let mut at = 0;
    while at + HEAD <= bytes.len() {
        match record_at(&bytes[at..]) {
            Some((record, whole)) => {
                records.push(Placed { place: at as u64, record });
                at += whole;
            }
            None => at += ALIGN,
        }
    }
    records.sort_by_key(|one| one.record.number);
    Ok(records)
}

/// A record's bytes with another payload of the same length.
pub(crate) fn sealed(record: &Record, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + payload.len());
    push(&mut bytes, record.number, record.kind, &[payload]);
    bytes
}

/// Appends a record without what aligns the next one.
fn push(out: &mut Vec<u8>, number: u64, kind: u32, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&(len as u32).to_le_bytes());
    checksum.update(&number.to_le_bytes());
    checksum.update(&kind.to_le_bytes());
    parts.iter().for_each(|part| checksum.update(part));
    out.extend_from_slice(&MARK);
    out.extend_from_slice(&(len as u32).to_le_bytes());
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&checksum.finalize().to_le_bytes());
    out.extend_from_slice(&kind.to_le_bytes());
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// The record at the beginning of `bytes`, and how many bytes it takes.
fn record_at(bytes: &[u8]) -> Option<(Record, usize)> {
    let (head, rest) = bytes.split_at_checked(HEAD)?;
    if head[..4] != MARK {
        return None;
    }
    let u32_at = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
    let (len, checksum, kind) = (u32_at(4)? as usize, u32_at(16)?, u32_at(20)?);
    let number = u64::from_le_bytes(head.get(8..16)?.try_into().ok()?);
    let payload = rest.get(..len)?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head[4..16]);
    hasher.update(&head[20..]);
    hasher.update(payload);
    let whole = (HEAD + len).next_multiple_of(ALIGN);
    let record = Record { number, kind, payload: payload.to_vec() };
    (hasher.finalize() == checksum).then_some((record, whole))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn ring(capacity: u64) -> (RingFile, File) {
        let file = tempfile::tempfile().unwrap();
        let other = file.try_clone().unwrap();
        (RingFile::new(file, capacity).unwrap(), other)
    }

    #[test]
    fn the_newest_records_are_there_after_many_rounds() {
        let (mut ring, mut file) = ring(4096);
        for i in 0..1000_u32 {
            let payload = vec![i as u8; (i % 97) as usize];
            ring.append(7, &[&i.to_le_bytes(), &payload]).unwrap();
            if i % 3 == 0 {
                ring.flush().unwrap();
            }
        }
        ring.flush().unwrap();
        let records = scan(&mut file).unwrap();
        assert!(records.len() > 30, "{}", records.len());
        assert_eq!(records.last().unwrap().number, 1000);
        for record in &records {
            let i = (record.number - 1) as u32;
            assert_eq!(record.payload[..4], i.to_le_bytes());
            assert_eq!(record.payload.len(), 4 + (i % 97) as usize);
        }
        // Without a hole: the last ones are consecutive.
        let newest: Vec<u64> = records.iter().rev().take(20).map(|record| record.number).collect();
        assert_eq!(newest, (981..=1000).rev().collect::<Vec<u64>>());
    }

    #[test]
    fn a_torn_or_changed_record_is_left_out_and_the_others_stay() {
        let (mut ring, mut file) = ring(4096);
        for i in 0..5_u8 {
            ring.append(1, &[&[i; 40]]).unwrap();
        }
        ring.flush().unwrap();
        let one = (HEAD + 40).next_multiple_of(ALIGN) as u64;
        for at in [4, 9, 17, 21, 30, 63] {
            file.seek(SeekFrom::Start(2 * one + at)).unwrap();
            let mut byte = [0];
            file.read_exact(&mut byte).unwrap();
            file.seek(SeekFrom::Start(2 * one + at)).unwrap();
            file.write_all(&[byte[0] ^ 1]).unwrap();
            let numbers: Vec<u64> = scan(&mut file).unwrap().iter().map(|r| r.number).collect();
            assert_eq!(numbers, [1, 2, 4, 5], "byte {at} is changed");
            file.seek(SeekFrom::Start(2 * one + at)).unwrap();
            file.write_all(&byte).unwrap();
        }
        assert_eq!(scan(&mut file).unwrap().len(), 5);
    }
}
